"""A service with an admin API, and a client that may call it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Running, Start

from service.security.tokens import add_token

SLOW = 3600


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "admin-tokens"


@pytest.fixture
def service(start: Start, store: Path, tokens: Path) -> Running:
    add_token(tokens, "first", ["admin"])
    return start(store, faults=True, store_poll_seconds=SLOW, admin_port=0, admin_token_file=tokens)


@pytest.fixture
def address(service: Running) -> str:
    """Where every call of the admin API begins."""
    return f"http://127.0.0.1:{service.service.ports.admin}/admin/v1"


@pytest.fixture
def admin(address: str, tokens: Path) -> Iterator[httpx.Client]:
    secret = add_token(tokens, "operator", ["admin"])
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        yield client
