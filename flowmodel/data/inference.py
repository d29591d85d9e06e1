"""Guess the supports of a table's columns, with care: a wrong guess puts no density where data may be."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowmodel.data.table import Table
from flowmodel.supports import Bounded, Integer, Positive, Support

Column = npt.NDArray[np.float64]

_FEWEST_ROWS = 50
"""Below so many rows neither a skewness nor the reach of a column says much."""

_NEAR = 0.05
"""How near 0 and 1 a column must come to be taken for a share."""


class Inferred(NamedTuple):
    """The support guessed for a column, and what it was guessed from."""

    support: Support
    reason: str


def infer_supports(table: Table, declared: Collection[str] = ()) -> dict[str, Inferred]:
    """The columns that seem to hold something else than real numbers.

    A column is taken for

    * whole numbers, if all are and fewer than half as many different ones as rows: a density over repeated values would
      be unbounded. They start at 0 if none is negative and the least lies within a standard deviation of 0;
    * numbers between 0 and 1, if all are, strictly, and they come within 0.05 of both;
    * positive numbers, if all are, their skewness is above 1, and that of their logarithm less than half as large.

    The last two need at least 50 rows. Everything else stays real.

    Args:
        table: the rows, all finite.
        declared: names of columns to pass over.

    Returns:
        The guesses by column, in the order of the table.

    Example:
        >>> counts = np.random.default_rng(0).poisson(3.0, (200, 1)).astype(float)
        >>> infer_supports(Table(("visits",), counts, "example"))["visits"].support
        Integer(low=0, high=None)
    """
    found = {}
    for place, name in enumerate(table.columns):
        guess = None if name in declared else _guess(table.rows[:, place])
        if guess is not None:
            found[name] = guess
    return found


def _guess(values: Column) -> Inferred | None:
    if np.array_equal(values, np.round(values)):
        different = len(np.unique(values))
        if 2 * different >= len(values):
            return None
        low = 0 if 0 <= values.min() <= values.std() else None
        return Inferred(Integer(low), f"{different} different values in {len(values)} rows, all of them whole")
    lowest, highest = float(values.min()), float(values.max())
    if len(values) < _FEWEST_ROWS or lowest <= 0:
        return None
    if highest < 1 and lowest < _NEAR and highest > 1 - _NEAR:
        return Inferred(Bounded(0, 1), f"all values lie between 0 and 1, from {lowest:.3g} to {highest:.3g}")
    skewness, of_logarithm = _skewness(values), _skewness(np.log(values))
    if skewness > 1 and abs(of_logarithm) < 0.5 * skewness:
        return Inferred(
            Positive(),
            f"all values are above 0, and their skewness of {skewness:.1f} is {of_logarithm:.1f} after a logarithm",
        )
    return None


def _skewness(values: Column) -> float:
    centred = values - values.mean()
    spread = centred.std()
    return float((centred**3).mean() / spread**3) if spread > 0 else 0.0
