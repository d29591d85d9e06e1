"""``flowmodel serve`` as a person runs it: a process, its printed lines, its signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from conftest import Running, publish

PROGRAM = [sys.executable, "-c", "from service.command import serve; serve()"]
FREE_PORTS = ["--engine", "inprocess", "--grpc-port", "0", "--http-port", "0"]


class Served:
    """A serving process whose lines can be waited for."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("FLOWMODEL_")} | variables,
        )
        self._watchdog = threading.Timer(60, self.process.kill)
        self._watchdog.start()

    def lines(self, count: int) -> list[str]:
        return [self.process.stdout.readline().rstrip("\n") for _ in range(count)]

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Exit code and standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors

    def close(self) -> None:
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def begin(*arguments: str, **variables: str) -> Served:
        started.append(Served(*arguments, **variables))
        return started[-1]

    yield begin
    for served in started:
        served.close()


@pytest.mark.parametrize("model", ["wine", "pair"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_calls_work_as_pasted_and_a_signal_ends_it(
    serve: Callable[..., Served], tmp_path: Path, model: str, number: signal.Signals
) -> None:
    publish(tmp_path, model, context=model == "pair")
    served = serve("--store", str(tmp_path), *FREE_PORTS)
    ready, curl, grpc_call = served.lines(3)
    assert ready.startswith(f"Ready: {model}/1 by inprocess, gRPC 127.0.0.1:")
    assert curl.startswith("  curl -H ")
    answers = [
        subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30, check=True, cwd="/").stdout
        for line in (curl, grpc_call)
    ]
    assert f'"model":"{model}","version":"1","log_prob":[' in answers[0]
    over_http, over_grpc = (float(text[text.index("[") + 1 : text.index("]")]) for text in answers)
    assert over_http == pytest.approx(over_grpc, abs=1e-6)
    code, errors = served.end(number)
    assert code == 0
    assert "Traceback" not in errors


def test_an_empty_store_is_waited_for(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(*FREE_PORTS, FLOWMODEL_STORE=str(tmp_path), FLOWMODEL_STORE_POLL_SECONDS="0.05")
    (waiting,) = served.lines(1)
    assert waiting.startswith(f"Waiting for a model in {tmp_path}: publish one with `flowmodel train DATA")
    publish(tmp_path, "wine")
    ready, *_ = served.lines(3)
    assert ready.startswith("Ready: wine/1")
    assert served.end()[0] == 0


def test_the_settings_file_is_read(serve: Callable[..., Served], tmp_path: Path, published: Path) -> None:
    config = tmp_path / "service.toml"
    config.write_text(f'engine = "inprocess"\nstore = "{published}"\ngrpc_port = 0\nhttp_port = 0\n')
    served = serve("--config", str(config))
    ready, curl, _ = served.lines(3)
    assert ready.startswith("Ready: pair/1, wine/2 by inprocess")
    address = next(word for word in ready.split() if word.startswith("http://")).rstrip(",")
    assert plain_http.get(f"{address}/readyz").json()["models"] == ["pair", "wine"]
    assert address in curl
    assert served.end()[0] == 0


def refused(*arguments: str, **variables: str) -> tuple[int, str]:
    result = subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | variables,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "text"),
    [
        (["--grpc-port", "99999"], {}, "--grpc-port: input should be less than or equal to 65535; given '99999'"),
        (["--engine", "magic"], {}, "'magic' is not one of 'torchserve', 'inprocess'"),
        ([], {"FLOWMODEL_HTTP_PRT": "1"}, "FLOWMODEL_HTTP_PRT is not a setting; did you mean FLOWMODEL_HTTP_PORT?"),
        (["--config", "none.toml"], {}, "cannot read the settings file none.toml"),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments: list[str], variables: dict[str, Any], text: str) -> None:
    code, errors = refused(*arguments, **variables)
    assert code == 2
    assert text in " ".join(errors.split())


def test_variables_of_other_commands_are_left_alone() -> None:
    # The empty host is refused only after the variables were found to be well known.
    program = [sys.executable, "-c", "from flowmodel.cli import main; main()", "serve", "--host", ""]
    result = subprocess.run(
        program, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"FLOWMODEL_MAX_EPOCHS": "3"}
    )
    assert "--host: string should have at least 1 character" in result.stderr
    assert "MAX_EPOCHS" not in result.stderr


def test_a_port_that_is_taken_is_named(wine: Running, tmp_path: Path) -> None:
    port = str(wine.service.ports.http)
    code, errors = refused("--store", str(tmp_path), *FREE_PORTS[:4], "--http-port", port)
    assert code == 1
    assert f"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use" in errors


def test_every_setting_is_an_option() -> None:
    result = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, timeout=60, check=True)
    for option in ("--engine [torchserve|inprocess]", "--store", "--max-queue-rows", "--drain-seconds", "--config"):
        assert option in result.stdout
