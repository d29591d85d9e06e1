"""The admin API: who is let in, what it changes in the store, and what it says came of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import plain_http
import pytest
from conftest import Loop, Running, Start, publish, running

from service.security.tokens import add_token
from service.settings import Settings, SettingsError, load_settings

SLOW = 3600


@dataclass(frozen=True)
class Refusing:
    """A service that tests share which ask for nothing that it does, and the tokens that they ask with."""

    service: Running
    store: Path
    operator: str
    caller: str
    stranger: str

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.service.service.ports.admin}/admin/v1"

    def left_alone(self) -> bool:
        return not list(self.store.rglob("serving.json")) and not self.service.service.gateway.draining


@pytest.fixture(scope="module")
def refusing(loop: Loop, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    folder = tmp_path_factory.mktemp("refusing")
    store, tokens = Path(shutil.copytree(published, folder / "store")), folder / "tokens"
    operator = add_token(tokens, "operator", ["admin"])
    caller = add_token(tokens, "caller", ["score", "sample"])
    stranger = add_token(folder / "others", "stranger", ["admin"])
    with running(loop, store, store_poll_seconds=SLOW, admin_port=0, admin_token_file=tokens) as service:
        yield Refusing(service, store, operator, caller, stranger)


def answering(service: Running, version: str = "") -> str:
    path = f"/versions/{version}" if version else ""
    answer = plain_http.post(f"{service.http}/v1/models/wine{path}:logProb", json={"rows": [[1, 2, 3]]}, timeout=20)
    return answer.json()["version"] if answer.status_code == 200 else str(answer.status_code)


def post(admin: httpx.Client, path: str, **order: object) -> dict:
    answer = admin.post(path, json=order)
    assert answer.status_code == 200, answer.text
    return answer.json()


PATHS = [
    ("GET", "/models"),
    ("GET", "/models/wine"),
    ("POST", "/reload"),
    ("GET", "/drain"),
    ("POST", "/drain"),
    ("GET", "/nothing/here"),
    *(
        ("POST", f"/models/wine/{change}")
        for change in ("default", "rollback", "retire", "restore", "canary", "shadow")
    ),
]


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda value: value.strip("/"))
def test_nobody_is_let_in_without_a_token_for_it(refusing: Refusing, method: str, path: str) -> None:
    before = refusing.service.metric("density_rejected_total", reason="unauthenticated")
    for token, status in ((None, 401), (refusing.stranger, 401), (refusing.caller, 403)):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = plain_http.request(method, refusing.address + path, headers=headers)
        assert answer.status_code == status, answer.text
    assert refusing.left_alone()
    assert refusing.service.metric("density_rejected_total", reason="unauthenticated") == before + 2


def test_it_is_off_unless_asked_for_and_not_on_the_gateways_port(start: Start, published: Path) -> None:
    service = start(published)
    assert service.service.ports.admin is None
    assert plain_http.get(f"{service.http}/admin/v1/models").status_code == 404


def test_without_tokens_it_is_refused_at_start() -> None:
    with pytest.raises(SettingsError, match="admin_token_file: is missing; the admin API answers nobody without"):
        load_settings(options={"admin_port": 8001})
    assert Settings().admin_host == "127.0.0.1"


def test_the_state_of_every_model_is_told(service: Running, admin: httpx.Client, store: Path) -> None:
    publish(store, "wine", seed=9)
    (store / "wine" / "3" / "scorer.pt").write_bytes(b"?")
    listed = post(admin, "/reload")["models"]
    assert [model["name"] for model in listed] == ["pair", "wine"]
    assert listed == admin.get("/models").json()["models"]
    wine = admin.get("/models/wine").json()
    assert wine == listed[1]
    assert (wine["default"], wine["default_version"], wine["previous_version"]) == ("latest", "2", "2")
    failed, second, first = wine["versions"]
    assert failed["state"] == "failed"
    assert "scorer.pt is not the file that was published" in failed["reason"]
    assert (second, first) == ({"version": "2", "state": "loaded"}, {"version": "1", "state": "loaded"})


def test_a_change_answers_at_once_and_survives_the_service(
    service: Running, admin: httpx.Client, store: Path, start: Start
) -> None:
    assert post(admin, "/models/wine/default", version=1)["default_version"] == "1"
    assert answering(service) == "1"
    assert answering(start(store, store_poll_seconds=SLOW)) == "1", "the choice is in the store"
    state = post(admin, "/models/wine/rollback")
    assert (state["default"], state["default_version"]) == ("2", "2")
    assert answering(service) == "2"
    state = post(admin, "/models/wine/retire", version="1")
    assert state["versions"][1] == {"version": "1", "state": "retired"}
    assert answering(service, "1") == "404"
    assert post(admin, "/models/wine/restore", version=1)["versions"][1]["state"] == "loaded"
    assert post(admin, "/models/wine/canary", version=1, weight=1)["canary"] == {"version": "1", "weight": 1.0}
    assert answering(service) == "1"
    assert post(admin, "/models/wine/canary", version=None)["canary"] is None
    assert post(admin, "/models/wine/shadow", version=1)["shadow"] == "1"
    assert post(admin, "/models/wine/retire", version=2, force=True)["default_version"] == "1"
    assert post(admin, "/models/wine/restore", version=2)["shadow"] is None
    assert post(admin, "/models/wine/default", version="latest")["default"] == "latest"


def test_a_default_that_cannot_be_loaded_is_told_and_not_switched_to(
    service: Running, admin: httpx.Client, store: Path
) -> None:
    post(admin, "/models/wine/default", version=2)
    publish(store, "wine", seed=9)
    whole = (store / "wine" / "3" / "scorer.pt").read_bytes()
    (store / "wine" / "3" / "scorer.pt").write_bytes(whole[:100])
    state = post(admin, "/models/wine/default", version=3)
    assert (state["default"], state["default_version"]) == ("3", "2")
    assert state["versions"][0]["state"] == "failed"
    (store / "wine" / "3" / "scorer.pt").write_bytes(whole)
    post(admin, "/reload")
    assert answering(service) == "3"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/models/beer/default", '{"version": 1}', 404, "no model 'beer'"),
        ("/models/wine/default", "", 400, 'version: missing; a version such as 3, or "latest" expected'),
        ("/models/wine/default", '{"version": 1.5}', 400, "version: 1.5 given; a version"),
        ("/models/wine/default", '{"version": "newest"}', 400, "version: 'newest' given"),
        ("/models/wine/default", '{"version": true}', 400, "version: True given"),
        ("/models/wine/default", '{"version": "02"}', 400, "version: '02' given; a version such as 3"),
        ("/models/wine/default", '{"version": 9}', 400, "wine: there is no version 9 to be made the default"),
        ("/models/wine/default", '{"number": 1}', 400, "number: unknown; expected"),
        ("/models/wine/default", "[1]", 400, "is JSON but no object"),
        ("/models/wine/default", "{", 400, "is not JSON"),
        ("/models/wine/rollback", '{"version": 1}', 400, "version: unknown"),
        ("/models/pair/rollback", "", 400, "there is no earlier default to go back to"),
        ("/models/wine/retire", '{"version": 2}', 400, "version 2 is the default and answers requests"),
        ("/models/wine/retire", '{"version": 2, "force": 1}', 400, "force: 1 given; true or false expected"),
        ("/models/wine/restore", '{"version": 1}', 400, "version 1 is not retired"),
        ("/models/wine/canary", '{"version": 1, "weight": "half"}', 400, "weight is 'half'; a number above 0"),
        ("/models/wine/canary", '{"version": null, "weight": false}', 400, "weight is False; a number above 0"),
        ("/models/wine/canary", '{"version": 2}', 400, "version 2 is the default; the canary must be another one"),
        ("/models/wine/shadow", "{}", 400, "version: missing; a version such as 3, or null expected"),
        ("/models/wine/shadow", '{"version": ' + " " * 70_000 + "1}", 413, "bytes and more given; at most 65536"),
        ("/models/wine/promote", "{}", 404, "nothing at /admin/v1/models/wine/promote"),
        ("/models/wine", "{}", 405, "POST given; /admin/v1/models/wine takes "),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(
    refusing: Refusing, path: str, body: str, status: int, text: str
) -> None:
    headers = {"Authorization": f"Bearer {refusing.operator}"}
    answer = plain_http.post(refusing.address + path, content=body, headers=headers)
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]
    assert refusing.left_alone()


def test_a_broken_choice_is_told_and_left_alone(service: Running, admin: httpx.Client, store: Path) -> None:
    path = store / "wine" / "serving.json"
    path.write_text("{")
    state = post(admin, "/reload")["models"][1]
    assert "wine/serving.json: not JSON" in state["problem"]
    assert state["default_version"] == "2"
    assert admin.post("/models/wine/default", json={"version": 1}).status_code == 400
    assert path.read_text() == "{"
    shutil.rmtree(store / "wine")
    assert [model["name"] for model in post(admin, "/reload")["models"]] == ["pair"]


def test_many_changes_at_once_leave_a_choice_that_answers(service: Running, admin: httpx.Client) -> None:
    barrier = threading.Barrier(4)
    failures: list[str] = []

    def change(version: int) -> None:
        barrier.wait()
        for _ in range(5):
            answer = admin.post("/models/wine/default", json={"version": version})
            if answer.status_code != 200:
                failures.append(answer.text)

    threads = [threading.Thread(target=change, args=(1 + number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    state = admin.get("/models/wine").json()
    assert answering(service) == state["default"] == state["default_version"]


def test_what_is_changed_is_logged_with_the_tokens_name_and_never_the_token(
    admin: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    post(admin, "/models/wine/default", version=1)
    assert "wine: default {'version': 1} by the token 'operator'" in caplog.text
    assert admin.headers["Authorization"].removeprefix("Bearer ") not in caplog.text
