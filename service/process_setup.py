"""What every process of the service sets up first: its log, its open files, its event loop."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from typing import Any

from service.request_id import RequestIdFilter
from service.settings import Settings

log = logging.getLogger(__name__)

_OTHER_FILES = 256
"""Files open besides connections: logs, models, pipes of the engine."""


def write_log(level: str, name: str = "") -> None:
    """Write the log to standard error.

    Args:
        level: the least severe messages that are written.
        name: of this process, where there are several.
    """
    written = logging.StreamHandler(sys.stderr)
    written.addFilter(RequestIdFilter())
    process = f" {name}" if name else ""
    logging.basicConfig(
        handlers=[written],
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s{process} %(name)s%(request)s: %(message)s",
    )
    # It tells of its start and end, which the service does itself.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def allow_files(settings: Settings) -> None:
    """Have the system let this process open as many connections as the settings do."""
    needed = 2 * settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning(
            "the system lets this process open %d files and no more, too few for max_connections = %d on two servers",
            allowed,
            settings.max_connections,
        )


def new_loop() -> Any:
    """Uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
