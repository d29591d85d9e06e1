"""The real TorchServe: what curl gets from it, what it batches, and that it is kept alive and ended."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys

import grpc
import httpx
import numpy as np
import psutil
import pytest

from flowmodel.runtime.noise import standard_normal
from service.engines.engine import EngineError, EngineUnavailable
from service.engines.torchserve.engine import TorchServeEngine
from service.engines.torchserve.keys import KeyFile
from service.engines.torchserve.options import TorchServeOptions

ROWS = standard_normal(3, 0, 4, 3).astype("<f4")


@pytest.fixture
def post(torchserve, plain):
    """Posts to the model as curl would."""
    url = f"http://127.0.0.1:{torchserve.process.ports.inference}/predictions/plain/1"

    async def post(content: bytes | str, content_type: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"content-type": content_type, **dict(torchserve.process.keys.inference())}
            return await client.post(url, content=content, headers=headers)

    return post


async def test_curl_json(post, inprocess, plain) -> None:
    response = await post(f'{{"rows": {ROWS.tolist()}}}', "application/json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert (response.json()["model"], response.json()["version"]) == ("plain", "1")
    expected = await inprocess.log_prob(plain.key, ROWS.astype(np.float64), None)
    np.testing.assert_array_equal(np.float32(response.json()["log_prob"]), expected)


async def test_curl_json_with_nan(post) -> None:
    response = await post('{"rows": [[0, NaN, 0], [0, 0, 0]]}', "application/json")
    assert response.status_code == 200
    assert response.json()["log_prob"][0] == "NaN"
    assert [error["row"] for error in response.json()["row_errors"]] == [0]


async def test_curl_samples(post) -> None:
    response = await post('{"count": 3, "seed": 1}', "application/json")
    assert np.shape(response.json()["samples"]) == (3, 3)
    assert (await post('{"count": 3, "seed": 1}', "application/json")).content == response.content


async def test_curl_csv(post, inprocess, plain) -> None:
    text = "x2,x0,x1\n" + "\n".join(f"{c},{a},{b}" for a, b, c in ROWS.tolist())
    response = await post(text, "text/csv; charset=utf-8")
    assert response.headers["content-type"].startswith("text/csv")
    expected = await inprocess.log_prob(plain.key, ROWS.astype(np.float64), None)
    np.testing.assert_array_equal(np.float32(response.text.split()[1:]), expected)


async def test_curl_raw(post, inprocess, plain) -> None:
    response = await post(ROWS.tobytes(), "application/octet-stream")
    expected = await inprocess.log_prob(plain.key, ROWS, None)
    np.testing.assert_array_equal(np.frombuffer(response.content, "<f4"), expected)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ("{", "application/json"),
        ("a,b\n1,2\n", "text/csv"),
        (b"12345", "application/octet-stream"),
        (b"x", "image/png"),
    ],
)
async def test_curl_errors(post, content, content_type) -> None:
    response = await post(content, content_type)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "INVALID_ARGUMENT"


async def test_calls_at_once_are_put_together(torchserve, fragile) -> None:
    """The scorer answers with the rows of its call: some call must have had those of more than one request."""
    calls = [torchserve.log_prob(fragile.key, np.zeros((32, 2)), None) for _ in range(24)]
    answers = await asyncio.gather(*calls)
    assert max(answer[0] for answer in answers) > 32


async def test_a_bad_call_among_others_fails_alone(torchserve, fragile) -> None:
    values = [0.0, 666.0, 1.0, 2.0] * 6
    calls = [torchserve.log_prob(fragile.key, np.full((3, 2), value), None) for value in values]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for value, answer in zip(values, answers, strict=True):
        assert isinstance(answer, EngineError) == (value == 666.0), (value, answer)


async def test_a_dead_worker_is_an_outage_and_comes_back(torchserve, plain, fragile) -> None:
    with pytest.raises(EngineUnavailable):
        await torchserve.log_prob(fragile.key, np.full((1, 2), 667.0), None)
    assert not torchserve.healthy
    await torchserve.log_prob(plain.key, ROWS, None)
    await asyncio.wait_for(torchserve.wait_healthy(), 60)
    assert (await torchserve.log_prob(fragile.key, np.zeros((1, 2)), None)).shape == (1,)


async def test_a_dead_server_comes_back_with_its_models(torchserve, inprocess, plain, conditional) -> None:
    dead = torchserve.process
    os.kill(dead.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        await torchserve.log_prob(plain.key, ROWS, None)
    await dead.wait()
    async with asyncio.timeout(90):
        while torchserve.process in (dead, None):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await torchserve.wait_healthy()
    np.testing.assert_array_equal(
        await torchserve.log_prob(plain.key, ROWS, None), await inprocess.log_prob(plain.key, ROWS, None)
    )
    assert conditional.key in torchserve._models


async def test_an_address_of_one_that_runs_elsewhere(torchserve, plain, shelf) -> None:
    ports = torchserve.process.ports
    elsewhere = TorchServeEngine(
        TorchServeOptions(
            address=f"127.0.0.1:{ports.grpc_inference}",
            management_address=f"127.0.0.1:{ports.grpc_management}",
            key_file=torchserve.process.model_store.parent / "key_file.json",
        )
    )
    await elsewhere.start()
    try:
        await elsewhere.load(plain)
        np.testing.assert_array_equal(
            await elsewhere.log_prob(plain.key, ROWS, None), await torchserve.log_prob(plain.key, ROWS, None)
        )
        with pytest.raises(EngineError, match=r"absent-1\.mar"):
            await elsewhere.load(shelf.flow("absent", 1, 2))
    finally:
        await elsewhere.close()
    assert torchserve.healthy


async def test_the_key_of_one_that_runs_elsewhere_is_asked_for_by_its_setting(torchserve) -> None:
    ports = torchserve.process.ports
    engine = TorchServeEngine(
        TorchServeOptions(
            address=f"127.0.0.1:{ports.grpc_inference}", management_address=f"127.0.0.1:{ports.grpc_management}"
        )
    )
    with pytest.raises(EngineError, match="does torchserve_key_file name its"):
        await engine.start()
    await engine.close()


INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
EVERY_CALL = [
    *((INFERENCE, method) for method in ("Ping", "Predictions", "StreamPredictions", "StreamPredictions2")),
    *((MANAGEMENT, method) for method in ("DescribeModel", "ListModels", "RegisterModel", "ScaleWorker", "SetDefault")),
    (MANAGEMENT, "UnregisterModel"),
]


@pytest.mark.parametrize(("api", "method"), EVERY_CALL)
async def test_a_call_without_its_key_is_refused(torchserve, plain, api, method) -> None:
    """Every method that TorchServe 0.12 has, whether the gateway uses it or not."""
    keys, ports = torchserve.process.keys, torchserve.process.ports
    port, wrong = (
        (ports.grpc_inference, keys.management()) if api == INFERENCE else (ports.grpc_management, keys.inference())
    )
    # In all of these the first field is a text, in most the model's name. What is refused has no answer, so a call of
    # one message serves streams too; a stream refused before grpc.aio has sent all of it would show INTERNAL instead.
    message = b"" if method == "Ping" else bytes([10, len(plain.name)]) + plain.name.encode()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for metadata in ((), wrong, (("authorization", "Bearer guess"),)):
            with pytest.raises(grpc.aio.AioRpcError, match="Token Authorization failed"):
                await channel.unary_unary(f"/{api}/{method}")(message, metadata=metadata, timeout=20)
    assert torchserve.healthy


async def test_an_http_call_without_its_key_is_refused(torchserve) -> None:
    ports = torchserve.process.ports
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in (
            f"http://127.0.0.1:{ports.inference}/predictions/plain",
            f"http://127.0.0.1:{ports.management}/models",
        ):
            response = await client.post(url)
            assert response.status_code == 400
            assert "Token Authorization failed" in response.text


async def test_its_folder_and_its_keys_are_this_users_alone(torchserve) -> None:
    folder = torchserve.process.model_store.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key_file.json").stat().st_mode & 0o777 == 0o600


def test_a_key_file_is_followed_and_never_told(tmp_path) -> None:
    path = tmp_path / "key_file.json"
    keys = KeyFile(path)
    with pytest.raises(EngineError, match=r"cannot read TorchServe's keys in .*key_file.json: No such file"):
        keys.inference()
    for secret in ("first", "second"):
        path.write_text(json.dumps({kind: {"key": secret} for kind in ("inference", "management")}))
        assert keys.management() == (("authorization", f"Bearer {secret}"),)
    path.write_text('{"inference": {"key": "third"}}')
    with pytest.raises(EngineError, match=r"is not the key_file.json of a TorchServe") as raised:
        keys.inference()
    assert "third" not in str(raised.value)


async def test_nobody_at_the_address() -> None:
    engine = TorchServeEngine(
        TorchServeOptions(address="127.0.0.1:1", management_address="127.0.0.1:1", start_timeout_seconds=0.5)
    )
    with pytest.raises(EngineUnavailable):
        await engine.start()
    await engine.close()


async def test_listens_on_loopback_alone(torchserve) -> None:
    jvm = psutil.Process(torchserve.process.pid)
    for process in (jvm, *jvm.children(recursive=True)):
        addresses = {item.laddr.ip for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN}
        assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}, process


async def test_no_line_of_output_for_a_request(torchserve, plain, caplog) -> None:
    with caplog.at_level("DEBUG", "service.engines"):
        for _ in range(5):
            await torchserve.log_prob(plain.key, ROWS, None)
    assert not caplog.records


async def test_models_are_not_fetched_from_urls(torchserve) -> None:
    url = f"http://127.0.0.1:{torchserve.process.ports.management}/models"
    async with httpx.AsyncClient(trust_env=False, headers=dict(torchserve.process.keys.management())) as client:
        for source in ("http://127.0.0.1:1/evil.mar", "file:///etc/passwd"):
            response = await client.post(url, params={"url": source})
            assert response.status_code == 404, response.text
            assert "does not match any allowed URL" in response.text
        response = await client.post(url, params={"url": "../key_file.json"})
        assert response.status_code == 404
        assert "Relative path is not allowed" in response.text


async def test_close_leaves_nothing(plain) -> None:
    engine = TorchServeEngine(TorchServeOptions(threads=1))
    await engine.start()
    await engine.load(plain)
    jvm = psutil.Process(engine.process.pid)
    processes, folder = [jvm, *jvm.children(recursive=True)], engine.process.folder
    assert len(processes) == 2
    assert folder.is_dir()
    await engine.close()
    await engine.close()
    for process in processes:
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not folder.exists()


async def test_a_failed_start_says_why_and_leaves_nothing(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = TorchServeEngine(TorchServeOptions(heap="1k"))
    with pytest.raises(EngineError, match=r"ended with exit code 1.*(heap|JVM|Virtual Machine)"):
        await engine.start()
    assert not engine.healthy
    assert not list(tmp_path.iterdir())
    await engine.close()


async def test_missing_packages_are_named(monkeypatch) -> None:
    monkeypatch.setattr("service.engines.torchserve.process.importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("JAVA_HOME", sys.prefix + "/nowhere")
    with pytest.raises(EngineError, match=r"pip install 'flowmodel\[torchserve\]'"):
        await TorchServeEngine(TorchServeOptions()).start()


async def test_dies_with_its_parent() -> None:
    program = """
import asyncio, sys
from service.engines.torchserve.engine import TorchServeEngine
from service.engines.torchserve.options import TorchServeOptions

async def main():
    engine = TorchServeEngine(TorchServeOptions())
    await engine.start()
    print(engine.process.pid, engine.process.folder, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    pid, folder = (await asyncio.wait_for(parent.stdout.readline(), 60)).split()
    jvm = psutil.Process(int(pid))
    assert jvm.name() == "java"
    parent.kill()
    await parent.wait()
    try:
        await asyncio.to_thread(jvm.wait, 10)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder.decode())
