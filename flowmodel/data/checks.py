"""What must hold before rows can be trained on, for a table from a file and for an array alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowmodel.data.table import Matrix
from flowmodel.errors import DataError
from flowmodel.supports import Integer, Support


def check_finite(rows: Matrix, columns: Sequence[str], source: str) -> None:
    """Raise ``DataError`` at the first missing or infinite value, with its column and 1-based row."""
    bad = ~np.isfinite(rows)
    if not bad.any():
        return
    row, column = (int(index) for index in np.argwhere(bad)[0])
    more = int(bad.any(axis=1).sum()) - 1
    others = f" (and {more} more such rows)" if more else ""
    raise DataError(
        f"{source}: row {row + 1}, column {columns[column]!r}: found {describe(rows[row, column])}, expected a finite "
        f"number{others}; correct the cell, or leave out the row or the column"
    )


def check_varied(rows: Matrix, columns: Sequence[str], source: str, *, count: int | None = None) -> None:
    """Raise ``DataError`` for a column that has the same value in all rows: no density can be given for it.

    Where ``rows`` are only the lowest and the highest value of each column, ``count`` says of how many rows.
    """
    if not len(rows):
        return
    count = len(rows) if count is None else count
    lowest, highest = rows.min(axis=0), rows.max(axis=0)
    # A column computed as a constant may differ in the last bit from row to row.
    rounding = 4 * np.finfo(np.float64).eps * np.maximum(np.abs(lowest), np.abs(highest))
    for column in np.flatnonzero(highest - lowest <= rounding).tolist():
        raise DataError(
            f"{source}: column {columns[column]!r} has one value, {lowest[column]:g}, in all {count} rows; "
            "a density needs columns that vary, so leave it out"
        )


def check_supported(rows: Matrix, columns: Sequence[str], supports: Sequence[Support], source: str) -> None:
    """Raise ``DataError`` at the first value outside the support of its column, with its column and 1-based row."""
    for place, support in enumerate(supports):
        outside = np.flatnonzero(~support.contains(rows[:, place]))
        if len(outside):
            row = int(outside[0])
            others = f" (and {len(outside) - 1} more such rows)" if len(outside) > 1 else ""
            raise DataError(
                f"{source}: row {row + 1}, column {columns[place]!r}: found {rows[row, place]:.17g}, expected "
                f"{support.words}{others}; correct the cell, leave out the row, or declare another support, such as "
                f"{_wider(support)}"
            )


def _wider(support: Support) -> str:
    return "real numbers" if not isinstance(support, Integer) or support == Integer() else "whole numbers of any size"


def check_enough_rows(count: int, dimensions: int, source: str) -> None:
    """Raise ``DataError`` for no rows at all, or fewer than there are dimensions."""
    if count == 0:
        raise DataError(f"{source}: there are no rows; expected at least {max(dimensions, 2)}")
    if count < max(dimensions, 2):
        raise DataError(
            f"{source}: {count} {'row is' if count == 1 else 'rows are'} fewer than needed for {dimensions} "
            f"{'dimension' if dimensions == 1 else 'dimensions'}; expected at least {max(dimensions, 2)}, and some "
            "hundreds for a useful density: give more rows or choose fewer columns"
        )


def describe(value: float) -> str:
    """A non-finite number in words."""
    return "NaN or a missing value" if np.isnan(value) else "minus infinity" if value < 0 else "infinity"
