"""A stranger's first five minutes, with the real TorchServe: serve, paste the calls, train while it runs, stop."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


class Served:
    """``deploy/serve``, what it printed, and where it answers."""

    def __init__(self, store: Path, *arguments: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLOWMODEL_")}
        environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "FLOWMODEL_STORE": str(store)}
        command = [str(ROOT / "deploy/serve"), "--grpc-port", "0", "--http-port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
        )
        self.lines: list[str] = []
        self._printed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ready = self.wait_for(r"^Ready: ")
        self.http = re.search(r"HTTP (http://\S+?),", ready).group(1)
        self.grpc = re.search(r"gRPC (\S+?),", ready).group(1)
        self.calls = [self.wait_for(r"^\s+curl "), self.wait_for(r"^\s+\S*python\S* -c ")]

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._printed:
                self.lines.append(line.rstrip("\n"))
                self._printed.notify_all()
        with self._printed:
            self.lines.append("-- end --")
            self._printed.notify_all()

    def wait_for(self, pattern: str) -> str:
        def found() -> str | None:
            return next((line for line in self.lines if re.search(pattern, line)), None)

        with self._printed:
            self._printed.wait_for(lambda: found() or self.lines[-1:] == ["-- end --"], timeout=240)
            assert found(), f"never printed {pattern!r}:\n" + "\n".join(self.lines)
            return found()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.http + path) as answer:
            return answer.read()

    def stop(self) -> int:
        """Ctrl-C, and the exit status."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        self._reader.join(10)
        self.process.stdout.close()
        return status


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("store"))
    yield served
    if served.process.poll() is None:
        served.stop()


def run(command: str) -> str:
    return subprocess.run(
        shlex.split(command.strip()), capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    ).stdout


def test_the_printed_calls_answer_as_pasted(served):
    by_curl = json.loads(run(served.calls[0]))
    assert by_curl["model"] == "demo"
    (log_prob,) = by_curl["log_prob"]
    assert f"{log_prob:.3f}"[:-1] in run(served.calls[1])


def test_the_calls_of_the_readme_answer(served):
    text = (ROOT / "README.md").read_text()
    calls = [call for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for call in [block] if "curl" in call]
    assert len(calls) == 2
    answers = [run(call.replace("http://127.0.0.1:8000", served.http)) for call in calls]
    rows = (ROOT / "examples/demo.csv").read_text().count("\n") - 1
    assert len(answers[0].splitlines()) == rows + 1
    assert len(json.loads(answers[1])["samples"]) == 3
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "DensityClient" in block)
    run(shlex.join([sys.executable, "-c", program.replace("127.0.0.1:50051", served.grpc)]))


def test_breast_cancer_trained_while_it_runs(served):
    printed = run(
        shlex.join(
            [
                sys.executable,
                str(ROOT / "examples/breast_cancer.py"),
                *("--http", served.http, "--grpc", served.grpc, "--store", store_of(served)),
                *("--train-args", "--max-epochs 40"),
            ]
        )
    )
    assert "569 rows scored by curl and by the client" in printed
    assert float(re.search(r"difference between the two: (\S+)", printed).group(1)) == 0
    auroc = float(re.search(r"flow (\d\.\d+)", printed).group(1))
    # A single normal distribution fitted to the benign rows reaches about 0.95 here.
    assert auroc > 0.9, printed


def store_of(served: Served) -> str:
    arguments = psutil.Process(served.process.pid).cmdline()
    return arguments[arguments.index("--store") + 1]


def test_metrics_show_both_transports_and_parse(served):
    families = {family.name: family for family in text_string_to_metric_families(served.get("/metrics").decode())}
    counted = {
        sample.labels["model"]: sample.value
        for sample in families["density_requests"].samples
        if sample.labels["method"] == "LogProb" and sample.labels["code"] == "OK"
    }
    # One call each by curl and by the printed client, and those of the README, HTTP and gRPC alike.
    assert counted["demo"] >= 4
    assert sum(sample.value for sample in families["density_rows"].samples) >= 2000


def test_interrupt_ends_everything_it_started(served):
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert any("java" in child.name() for child in children)
    assert served.stop() == 0, "\n".join(served.lines)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert "Traceback" not in "\n".join(served.lines)
