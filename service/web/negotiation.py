"""Which format a body is in, and which one the answer should have."""

from __future__ import annotations

from starlette.requests import Request

from service.errors import InvalidRequest, NotAcceptable, UnsupportedContentType, Violation
from service.web.formats import FORMATS, Format

_SUPPORTED = ", ".join(FORMATS)
_CURL_DEFAULT = "application/x-www-form-urlencoded"


def request_format(request: Request) -> Format:
    """The format of the request's body, by its Content-Type.

    Raises:
        UnsupportedContentType: it is none of ours.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given in FORMATS:
        return FORMATS[given]
    text = f"{given or 'none'} given; expected one of {_SUPPORTED}"
    if given in ("", _CURL_DEFAULT):
        text += ": with curl, add -H 'Content-Type: application/json' (or text/csv and --data-binary @file.csv)"
    raise UnsupportedContentType("UNSUPPORTED_CONTENT_TYPE", [Violation("Content-Type", text)])


def answer_format(request: Request, default: Format) -> Format:
    """The format that the Accept header asks for, the request's own where it leaves the choice.

    Raises:
        NotAcceptable: it asks only for formats that are none of ours.
    """
    accept = request.headers.get("accept", "").strip()
    if not accept or accept == "*/*":
        return default
    ranges = sorted(map(_quality, accept.split(",")), key=lambda item: -item[1])
    for media_range, quality in ranges:
        if quality <= 0:
            break
        if _matches(media_range, default.content_type):
            return default
        for content_type, offered in FORMATS.items():
            if _matches(media_range, content_type):
                return offered
    text = f"{accept} given; answers are written as {_SUPPORTED}"
    raise NotAcceptable("NOT_ACCEPTABLE", [Violation("Accept", text)])


def timeout_seconds(request: Request) -> float | None:
    """What the Request-Timeout header allows, in seconds; None without one.

    Raises:
        InvalidRequest: it is no positive number.
    """
    given = request.headers.get("request-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        text = f"{given!r} given; a positive number of seconds expected"
        raise InvalidRequest.of("INVALID_TIMEOUT", "Request-Timeout", text)
    return seconds


def _quality(item: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media_range, float(parameter[2:])
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _matches(media_range: str, content_type: str) -> bool:
    family = content_type.partition("/")[0]
    return media_range in ("*/*", f"{family}/*", content_type)
