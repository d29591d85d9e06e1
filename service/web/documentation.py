"""``/docs``: Swagger UI as installed, and the ``/openapi.json`` that it shows; nothing is fetched from elsewhere."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from service.web.answers import json_answer
from service.web.openapi_parts import Json

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}</title>
  <link rel="icon" type="image/png" href="docs/assets/favicon-32x32.png">
  <link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
  <div id="page"></div>
  <script src="docs/assets/swagger-ui-bundle.js"></script>
  <script>SwaggerUIBundle({{url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null}})</script>
</body>
</html>
"""


def documentation_routes(document: Json) -> list[BaseRoute]:
    """Routes of the page, its files and the document; addresses in them are relative, so a path prefix is fine.

    Args:
        document: the OpenAPI document.
    """
    page = _PAGE.format(title=document["info"]["title"])

    async def openapi(request: Request) -> Response:
        return json_answer(document)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page)

    return [
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Mount("/docs/assets", StaticFiles(directory=swagger_ui_path)),
    ]
