"""The admin port: everything that its OpenAPI document allows, and such that it does not, with a token and without."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Loop, Running, running
from documented import CHECKS, keep_to_the_document, operations

from flowmodel.artefact.store import ModelStore
from service.admin.openapi import DOCUMENT
from service.security.tokens import add_token

OPERATIONS = operations(DOCUMENT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin")


@pytest.fixture(scope="module")
def secret(folder: Path) -> str:
    return add_token(folder / "tokens", "operator", ["admin"])


@pytest.fixture(scope="module")
def target(loop: Loop, published: Path, folder: Path, secret: str) -> Iterator[Running]:
    """A service whose store is its own, for what is asked is done."""
    store = shutil.copytree(published, folder / "store")
    with running(loop, store, store_poll_seconds=3600, admin_port=0, admin_token_file=folder / "tokens") as service:
        yield service


def address(target: Running) -> str:
    return f"http://127.0.0.1:{target.service.ports.admin}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_document_is_kept_to(
    target: Running, secret: str, share: Callable[[float], int], path: str, method: str
) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    keep_to_the_document(address(target), path, method, share(0.01 / len(OPERATIONS)), headers=headers)
    for name in ("wine", "pair"):
        holds = ModelStore(target.service.settings.store)
        assert set(holds.serving(name).retired) <= set(holds.versions(name)), "what was asked left a choice that is one"


def unauthorized(context: object, response: object, case: object) -> None:
    assert response.status_code in (401, 404, 405)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_without_a_token_nothing_is_answered(
    target: Running, share: Callable[[float], int], path: str, method: str
) -> None:
    keep_to_the_document(address(target), path, method, 5, checks=[unauthorized, *CHECKS[1:4]])
