"""The targets of the gateway, and whether what was measured reaches them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from reporting.verdict import Verdict

from serving.subjects import (
    ARCHIVE,
    ARROW,
    BENTOML,
    ECHO,
    FASTAPI,
    LITSERVE,
    MLSERVER,
    OURS,
    OURS_PROCESSES,
    OURS_TORCHSERVE,
    RAW,
    RAY,
    TORCHSERVE,
    TORCHSERVE_PROCESSES,
    TORCHSERVE_WORKERS,
)

Row = dict[str, Any]

LOAD, SCORER = "load", "scorer"
"""Sections of the record: of a server in one round; of the scorer called in this process."""

BEST_TORCHSERVE = "TorchServe, the better one"

ADDED_MILLISECONDS = 0.5

LIMITS: dict[tuple[str, str], dict[int, float]] = {
    (OURS, BEST_TORCHSERVE): {1: 1.4, 4096: 5.0},
    (OURS_PROCESSES, BEST_TORCHSERVE): {1: 1.4, 4096: 5.0},
    (OURS, ECHO): {1: 0.8, 4096: 0.5},
    (OURS_PROCESSES, ECHO): {1: 0.8, 4096: 0.5},
    (OURS_TORCHSERVE, BEST_TORCHSERVE): {1: 1.0, 64: 1.0, 4096: 2.0},
    (TORCHSERVE_PROCESSES, BEST_TORCHSERVE): {1: 1.0, 64: 1.0, 4096: 2.0},
    (OURS, MLSERVER): {1: 3.0, 64: 1.0, 4096: 1.0},
    (OURS, LITSERVE): {1: 3.0, 64: 1.0, 4096: 1.0},
    (OURS, FASTAPI): {1: 1.5, 64: 1.0, 4096: 1.0},
    (OURS, RAY): {1: 3.0, 64: 1.0, 4096: 1.0},
    (OURS, BENTOML): {1: 3.0, 64: 1.0, 4096: 1.0},
    (RAW, OURS): {1: 0.8, 64: 0.8, 4096: 0.8},
    (ARROW, OURS): {1: 0.8, 64: 0.8, 4096: 0.8},
}
"""How many times as many requests in a second, by rows of a request."""


class Cells:
    """The figures of all rounds.

    Args:
        rows: as recorded.
    """

    def __init__(self, rows: list[Row]) -> None:
        self._found: dict[tuple[str, int, int], dict[int, Row]] = defaultdict(dict)
        for row in rows:
            if row["section"] != LOAD:
                continue
            for cell in row["cells"]:
                self._found[cell["subject"], cell["rows"], cell["inflight"]][row["key"][1]] = cell

    def sizes(self) -> list[tuple[int, int]]:
        """Rows and requests in flight that were measured, in order."""
        return sorted({(rows, inflight) for _, rows, inflight in self._found})

    def values(self, subject: str, rows: int, inflight: int, name: str = "rate") -> dict[int, float]:
        """A figure in each round that has it."""
        if subject == BEST_TORCHSERVE:
            both = [self.values(each, rows, inflight) for each in (TORCHSERVE, TORCHSERVE_WORKERS)]
            return {number: max(b[number] for b in both if number in b) for number in {*both[0], *both[1]}}
        rounds = self._found.get((subject, rows, inflight), {})
        return {number: cell[name] for number, cell in rounds.items() if cell.get(name) is not None}

    def median(self, subject: str, rows: int, inflight: int, name: str = "rate") -> float | None:
        """Of the rounds; None where there is none."""
        values = self.values(subject, rows, inflight, name).values()
        return statistics.median(values) if values else None

    def failure(self, subject: str, rows: int, inflight: int) -> str | None:
        """Why there is no figure."""
        rounds = self._found.get((subject, rows, inflight), {}).values()
        return next((cell["failed"] for cell in rounds if "failed" in cell), None)

    def ratio(self, subject: str, base: str, rows: int, inflight: int) -> float | None:
        """Median over the rounds of the ratio within a round, infinite where the base answered nothing."""
        above, below = self.values(subject, rows, inflight), self.values(base, rows, inflight)
        ratios = [
            above[number] / below[number] if below[number] else math.inf for number in above.keys() & below.keys()
        ]
        return statistics.median(ratios) if ratios else None

    def others(self, subjects: tuple[str, ...], rows: int, inflight: int) -> float | None:
        """The largest of the subjects' medians of what other programs used."""
        medians = [self.median(each, rows, inflight, "others") for each in subjects]
        return max((value for value in medians if value is not None), default=None)


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Every target that these rows say something about."""
    cells = Cells(rows)
    return [*_ratios(cells), *_added(cells, rows)]


def _ratios(cells: Cells) -> Iterator[Verdict]:
    for (subject, base), limits in LIMITS.items():
        for rows, inflight in cells.sizes():
            ratio = cells.ratio(subject, base, rows, inflight) if inflight > 1 and rows in limits else None
            if ratio is not None:
                bases = (TORCHSERVE, TORCHSERVE_WORKERS) if base == BEST_TORCHSERVE else (base,)
                others = cells.others((subject, *bases), rows, inflight)
                where = f"rows: {rows}, in flight: {inflight}"
                yield Verdict(f"{subject} / {base}", where, ratio, limits[rows], False, others)


def _added(cells: Cells, rows: list[Row]) -> Iterator[Verdict]:
    alone = [row["p50"] for row in rows if row["section"] == SCORER]
    engines = {OURS_TORCHSERVE: cells.median(ARCHIVE, 1, 1, "p50"), OURS: statistics.median(alone) if alone else None}
    for subject, engine in engines.items():
        whole = cells.median(subject, 1, 1, "p50")
        if whole is not None and engine is not None:
            others = cells.others((subject,), 1, 1)
            what = f"added by the gateway to the {subject.removesuffix(' engine')} engine, p50 in ms"
            yield Verdict(what, "rows: 1, in flight: 1", whole - engine, ADDED_MILLISECONDS, True, others)
