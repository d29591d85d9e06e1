"""The OpenAPI document of the admin API: whole, valid, and shown where a browser without a token reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openapi_spec_validator
import plain_http
from conftest import Running
from starlette.routing import Route

from service.admin.app import AdminApp
from service.admin.openapi import DOCUMENT
from service.security.tokens import TokenFile


def base(address: str) -> str:
    return address.removesuffix("/admin/v1")


def test_every_route_and_method_is_described_and_every_described_one_is_there(service: Running, tokens: Path) -> None:
    app = AdminApp(service.service.gateway, service.service.watcher, TokenFile(tokens)).app
    routes = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.path not in ("/openapi.json", "/docs")
        for method in route.methods - {"HEAD"}
    }
    assert routes == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_the_document_is_valid_openapi() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_every_schema_is_used_and_every_one_used_is_there() -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"].rpartition("/")[2]} if "$ref" in value else set()
            return own.union(*(references(item) for item in value.values()))
        return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()

    assert references(DOCUMENT) == set(DOCUMENT["components"]["schemas"])


def test_the_page_shows_it_without_a_token_and_fetches_nothing_from_elsewhere(address: str) -> None:
    page = plain_http.get(f"{base(address)}/docs")
    assert "<title>Density service, admin API</title>" in page.text
    assert "//" not in re.sub(r"<!.*?>", "", page.text)
    for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert plain_http.get(f"{base(address)}/{link}").status_code == 200
    assert plain_http.get(f"{base(address)}/openapi.json").json() == DOCUMENT
