"""The program of ``make overload``: that it counts right, not how fast anything is."""

from __future__ import annotations

import json

import overload
import pytest


def test_it_runs_and_refuses_and_answers_rightly(tmp_path, capsys) -> None:
    options = ["--engine", "inprocess", "--rounds", "1", "--seconds", "1", "--results", str(tmp_path)]
    assert overload.main(options) == 0
    assert "inprocess" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "overload.json").read_text())
    assert record["others"] == []
    assert record["offered"] > record["goodput"] > 0
    assert record["refused"]["p50"] > 0


def test_figures_are_medians_of_the_rounds() -> None:
    def account(seconds: float, admitted: int, refused: int, others: tuple[str, ...] = ()) -> overload.Account:
        return overload.Account(seconds, [0.1] * admitted, [0.01] * refused, list(others))

    spells = [
        (account(2, 200, 0), account(2, 190, 1800)),
        (account(2, 220, 0), account(2, 110, 2000, ("a wrong answer",))),
        (account(2, 180, 0), account(2, 180, 1700)),
    ]
    found = overload.figures("inprocess", 2.0, spells)
    assert (found["capacity"], found["goodput"]) == (100, 90)
    assert found["goodput / capacity"] == pytest.approx(0.95)
    assert found["offered"] == pytest.approx(995)
    assert (found["admitted"]["p99"], found["refused"]["p50"]) == pytest.approx((0.1, 0.01))
    assert found["others"] == ["a wrong answer"]
    assert found["bound"] == pytest.approx((overload.QUEUE_ROWS + 3 * overload.BATCH_ROWS) / overload.ROWS / 100)
