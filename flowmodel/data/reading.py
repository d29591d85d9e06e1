"""What a reader of one kind of file hands back, and the words in which it says what is wrong with a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowmodel.data.checks import describe
from flowmodel.data.table import Matrix


class Reading(NamedTuple):
    """A file's chosen columns, and what is wrong with which row (0-based); a reader may stop at the first."""

    columns: tuple[str, ...]
    rows: Matrix
    problems: dict[int, str]


def cell_problem(row: int, column: str, found: str, line: int | None = None) -> str:
    """What is wrong with a cell, in the words that every kind of file shares; the row is 0-based, the line 1-based."""
    place = f"row {row + 1}" if line is None else f"row {row + 1} (line {line})"
    return (
        f"{place}, column {column!r}: found {found}, expected a finite number; correct the cell, or leave out the row "
        "or the column"
    )


def non_finite_problems(columns: Sequence[str], rows: Matrix, first_only: bool, before: int = 0) -> dict[int, str]:
    """The problem of each row that holds a NaN or an infinity: its first such cell; so many rows came before these."""
    bad = ~np.isfinite(rows)
    bad_rows = np.flatnonzero(bad.any(axis=1))
    problems = {}
    for row in bad_rows[: 1 if first_only else None].tolist():
        column = int(bad[row].argmax())
        problems[row] = cell_problem(before + row, columns[column], describe(rows[row, column]))
    return problems
