"""The benchmark of the service: that it measures what it says, and judges what it measured."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from serving import load, page, process, subjects, targets, wire
from serving.model import Model

PROGRAM = Path(__file__).parents[2] / "benchmarks/bench_service.py"
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (nghttp2-client) is not installed")

REPORT = """
finished in 1.50s, 200.00 req/s, 292.32KB/s
requests: {done} total, {done} started, {done} done, {good} succeeded, {failed} failed, {failed} errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 58.64KB (59867) total, 2.95KB (2554) headers (space savings 96.21%), 43.49KB ({data}) data
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return Model(tmp_path_factory.mktemp("store"), layers=1)


def cell(subject: str, rows: int, inflight: int, rate: float, **more: object) -> dict:
    return {"subject": subject, "rows": rows, "inflight": inflight, "rate": rate, "requests": 9, "p50": 1.0, "p99": 2.0,
            "cpu_us": 100.0, "others": 0.0, **more}  # fmt: skip


def row(server: str, number: int, *cells: dict) -> dict:
    return {"section": "load", "threads": 2, "key": [server, number], "cells": list(cells), "start_seconds": 1.0,
            "megabytes": 100, "took": 60.0}  # fmt: skip


def report(done: int = 300, good: int = 300, failed: int = 0, data: int = 16200) -> str:
    return REPORT.format(done=done, good=good, failed=failed, data=data)


@needs_h2load
def test_the_program_measures_records_and_goes_on(tmp_path):
    path = tmp_path / "service.json"
    command = [sys.executable, str(PROGRAM), "--subjects", subjects.ECHO, subjects.OURS, "--rows", "3", "--inflight"]
    command += ["4", "--rounds", "1", "--seconds", "0.2", "--record", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    content = json.loads(path.read_text())
    cells = [each for found in content["rows"] for each in found.get("cells", ())]
    asked = [(each["subject"], each["rows"], each["inflight"]) for each in cells]
    ways = (subjects.ECHO, subjects.OURS, subjects.RAW, subjects.ARROW)
    assert asked == [(way, *size) for way in ways for size in ((1, 1), (3, 4))]
    assert all(each["rate"] > 0 and each["cpu_us"] > 0 and each["p50"] <= each["p99"] for each in cells)
    assert path.with_suffix(".md").read_text() in done.stdout
    assert "| inprocess, HTTP float32 |" in done.stdout
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(path.read_text())["rows"] == content["rows"]
    assert "round 0" not in again.stderr


def test_every_answer_that_is_not_right_is_found_out(model):
    question = model.question(5)
    port = process.free_port()
    command = [sys.executable, *subjects.SERVERS[subjects.ECHO].command(model, port, 0)]
    with process.ServerProcess(command) as server:
        server.wait_until(lambda: wire.ECHO.verify(f"127.0.0.1:{port}", question, 10), seconds=60)
        scored = wire.Protocol(wire.ECHO.path, wire.ECHO.encode, wire.ECHO.decode)
        with pytest.raises(ValueError, match=r"answered \(40,\), expected \(5,\)"):
            scored.verify(f"127.0.0.1:{port}", question, 10)
    with pytest.raises(ValueError, match=r"the answer is 0\.5 nats away"):
        question.check(question.log_prob + 0.5)
    with pytest.raises(ValueError, match="nan nats away"):
        question.check(question.log_prob * float("nan"))


def test_a_server_that_does_not_come_up_says_why():
    command = [sys.executable, "-c", "raise SystemExit('no model')"]

    def unanswered() -> None:
        raise OSError("nobody there")

    with process.ServerProcess(command) as server, pytest.raises(process.ServerError, match="no model"):
        server.wait_until(unanswered, seconds=60)


def test_what_a_server_started_ends_with_it(tmp_path):
    # A child that ignores being asked, in a session of its own, as Java and Ray start theirs.
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    parent = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, start_new_session=True)\n"
        f"child.stdout.readline(); pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    with process.ServerProcess([sys.executable, "-c", parent]) as server:
        server.wait_until(lambda: int((tmp_path / "pid").read_text()), seconds=60)
        assert server.cpu_seconds() > 0
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_the_report_of_h2load_is_read_and_doubted():
    log = "".join(f"17{index}\t200\t{1000 * (index + 1)}\n" for index in range(100))
    found = load.parsed(report(), log, inflight=32, answer_bytes=54)
    assert (found.rate, found.requests, found.p50, found.p99) == (200.0, 300, 50.5, 100.0)
    with pytest.raises(load.NoAnswerError):
        load.parsed(report(done=0, good=0, data=0), "", 32, 54)
    with pytest.raises(load.LoadError, match="290 with a good status, 10 failed"):
        load.parsed(report(good=290, failed=10), log, 32, 54)
    # Errors of gRPC have status 200 and no body: forty answers too short are more than those still under way.
    with pytest.raises(load.LoadError, match="2160 too few"):
        load.parsed(report(data=16200 - 40 * 54), log, 32, 54)
    with pytest.raises(load.LoadError, match="not understood"):
        load.parsed("Segmentation fault", log, 32, 54)


def test_ratios_are_taken_within_a_round_and_against_the_better_torchserve():
    rates = [(100.0, 150.0, 120.0), (50.0, 60.0, 40.0), (100.0, 300.0, 10.0)]
    rows = [
        row(name, number, cell(name, 1, 32, rate))
        for number, each in enumerate(rates)
        for name, rate in zip((subjects.TORCHSERVE, subjects.OURS, subjects.TORCHSERVE_WORKERS), each, strict=True)
    ]
    (verdict,) = targets.verdicts(rows)
    assert (verdict.measured, verdict.target, verdict.reached) == (1.25, 1.4, False)
    assert "| inprocess / TorchServe, the better one | rows: 1, in flight: 32 | 1.25 | >= 1.4 | **missed** |" in (
        page.markdown(rows, "heading")
    )


def test_what_the_gateway_adds_is_its_latency_less_its_engines():
    rows = [
        row(subjects.TORCHSERVE, 0, cell(subjects.ARCHIVE, 1, 1, 500.0, p50=1.5)),
        row(subjects.OURS_TORCHSERVE, 0, cell(subjects.OURS_TORCHSERVE, 1, 1, 400.0, p50=1.75)),
        row(subjects.OURS, 0, cell(subjects.OURS, 1, 1, 2000.0, p50=0.75, others=0.5)),
        {"section": "scorer", "threads": 2, "key": ["scorer", 0], "p50": 0.01, "requests": 9},
    ]
    torchserve, inprocess = targets.verdicts(rows)
    assert (torchserve.measured, torchserve.reached, torchserve.disturbed) == (0.25, True, False)
    assert (round(inprocess.measured, 3), inprocess.reached, inprocess.disturbed) == (0.74, False, True)
    assert "disturbed: others used 50 % of the cores" in page.markdown(rows, "heading")


def test_a_figure_that_could_not_be_taken_says_why():
    why = "no request was answered\nin the time"
    failed = {"subject": subjects.FASTAPI, "rows": 64, "inflight": 32, "rate": 0.0, "failed": why}
    rows = [
        row(subjects.FASTAPI, 0, failed, cell(subjects.FASTAPI, 64, 256, 10.0)),
        row(subjects.OURS, 0, cell(subjects.OURS, 64, 32, 10.0), failed | {"subject": subjects.OURS, "inflight": 256}),
    ]
    found = {each.where: (each.measured, each.reached) for each in targets.verdicts(rows)}
    assert found == {"rows: 64, in flight: 32": (math.inf, True), "rows: 64, in flight: 256": (0.0, False)}
    text = page.markdown(rows, "heading")
    assert "| FastAPI | no request was answered in the time |" in text
