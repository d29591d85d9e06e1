"""The soak itself: that it runs, that its judgement can fail, that a wrong answer is seen."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
import soak
from flatness import MEGA, Tolerance, judge
from publishing import publish
from rotation import Rotation, Truth
from traffic import KINDS, AsyncCaller, Caller, Traffic

from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer

TOLERANCE = Tolerance(0.05, 16 * MEGA, "as of the gateway's memory")
SECONDS = [float(second) for second in range(1200)]


def noise(amount: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, amount, len(SECONDS))


def warming(second: float) -> float:
    return 400 * MEGA * (1 - 0.5 * math.exp(-second / 60))


LEVEL = {
    "level": lambda second: 400 * MEGA,
    "warming up": warming,
    "a step in the middle, and level from there": lambda second: warming(second) + 50 * MEGA * (second > 600),
    "up and down": lambda second: warming(second) + 40 * MEGA * math.sin(second / 40),
    "a slow drift within what is allowed": lambda second: warming(second) + second * MEGA / 120,
    "coming down": lambda second: 500 * MEGA - second * MEGA / 10,
}
LEAKS = {
    "a leak from the start": lambda second: warming(second) + second * MEGA / 20,
    "a leak that begins half-way": lambda second: warming(second) + max(0, second - 600) * MEGA / 10,
    "a leak under ups and downs": lambda second: (
        warming(second) + 40 * MEGA * math.sin(second / 40) + second * MEGA / 15
    ),
    "a leak in steps": lambda second: warming(second) + 5 * MEGA * (second // 60),
}


@pytest.mark.parametrize("name", [*LEVEL, *LEAKS])
def test_what_leaks_is_told_from_what_does_not(name: str) -> None:
    series = np.array([(LEVEL | LEAKS)[name](second) for second in SECONDS]) + noise(3 * MEGA)
    verdict = judge(name, SECONDS, series.tolist(), TOLERANCE)
    assert verdict.judged
    assert verdict.flat == (name in LEVEL), verdict


def test_files_that_are_never_closed_are_a_leak() -> None:
    files = [60.0 + second // 50 for second in SECONDS]
    assert not judge("files", SECONDS, files, soak.TOLERANCES["gateway: files"]).flat


def test_too_few_samples_are_not_judged() -> None:
    assert judge("short", [0.0, 1.0], [1.0, 1000.0 * MEGA], TOLERANCE).flat
    verdict = judge("short", SECONDS[:20], [second * MEGA * 10 for second in SECONDS[:20]], TOLERANCE)
    assert not verdict.judged
    assert verdict.flat


def test_a_wrong_answer_and_a_wrong_version_are_seen(store) -> None:
    publish(store, 2)
    rows = np.zeros((4, 3), np.float32)
    first, second = (Scorer.load(ModelStore(store).open("wine", n).scorer_path).log_prob(rows, None) for n in (1, 2))
    truth = Truth(store, 1)
    since = truth.mark()
    truth.check_scores("1", rows, first)
    truth.check_version("1", since)
    with pytest.raises(AssertionError, match="log-densities of version 1"):
        truth.check_scores("1", rows, second)
    with pytest.raises(AssertionError, match="version 2 answered where"):
        truth.check_version("2", since)
    truth.may_answer(1, 2)
    truth.may_answer(2)
    truth.check_version("1", since)
    with pytest.raises(AssertionError, match="version 1 answered where"):
        truth.check_version("1", truth.mark())


def test_torchserve_answers_every_kind_of_request(serve, store) -> None:
    served = serve("torchserve")
    traffic, stopping = Traffic(served.grpc, served.http, Truth(store, 1)), threading.Event()
    stopping.set()
    Caller(traffic, 0).run(stopping)
    assert traffic.failures == []
    assert traffic.kinds() == {kind.__name__.replace("_", " "): 1 for kind in KINDS}


def test_a_soak_of_seconds(tmp_path, capsys) -> None:
    assert soak.main(["--engine", "inprocess", "--minutes", "0.05", "--results", str(tmp_path)]) == 0
    assert "too short to tell" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "soak.json").read_text())
    assert record["complaints"] == []
    asked = {name.rpartition(":")[0] for name in record["answers"]}
    assert asked == {kind.__name__.replace("_", " ") for kind in KINDS} | {AsyncCaller.KIND}
    steps = {name for name in vars(Rotation) if not name.startswith("_")} - {"run"}
    assert {step.replace(" ", "_") for step in record["steps"]} == steps


def test_a_complaint_is_the_exit_code_and_stands_on_the_page(tmp_path, monkeypatch, capsys) -> None:
    leak = judge("gateway: memory", SECONDS, [second * MEGA for second in SECONDS], TOLERANCE)
    record = {
        "engine": "torchserve",
        "minutes": 20.0,
        "machine": "a machine",
        "requests": 7,
        "answers": {"one row: OK": 6, "one row: WRONG": 1},
        "steps": {"publish": 1},
        "series": [{**vars(leak), "growth": leak.growth, "flat": leak.flat}],
        "complaints": ["gateway: memory grows"],
    }
    monkeypatch.setattr(soak, "soak", lambda engine, minutes: record)
    soak.record_beside(tmp_path, {**record, "engine": "inprocess", "complaints": []})
    assert soak.main(["--results", str(tmp_path)]) == 1
    assert "gateway: memory grows" in capsys.readouterr().out
    page = (tmp_path / "soak.md").read_text()
    assert page.index("## inprocess") < page.index("## torchserve")
    assert "7 requests, 1 answered wrongly" in page
    assert "**grows**" in page
