"""The most and the least likely rows, and which column makes a row unlikely."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from flowmodel.bijectors.supports import supports_of
from flowmodel.report.evidence import Evidence, Matrix, Vector

WIDE = 200
"""Of more columns than this only those furthest from what is usual are tried, ``TRIED`` of them."""
TRIED = 64


@dataclasses.dataclass(frozen=True)
class Blame:
    """Why a row is unlikely.

    Args:
        column: The column most responsible; ``None`` if no column alone is.
        log_prob: Of the row with another value there, in nats; NaN if no other value makes it finite.
        usual: That value.
    """

    column: int | None
    log_prob: float
    usual: float


def most_likely(log_prob: Vector, count: int) -> npt.NDArray[np.int64]:
    """Places of the largest finite log-densities, the largest first.

    Example:
        >>> most_likely(np.array([1.0, 3.0, np.nan, 2.0]), 2)
        array([1, 3])
    """
    order = np.argsort(log_prob, kind="stable")[::-1]
    return order[np.isfinite(log_prob[order])][:count]


def least_likely(log_prob: Vector, count: int) -> npt.NDArray[np.int64]:
    """Places of the smallest log-densities, the smallest first; -inf counts, NaN does not.

    Example:
        >>> least_likely(np.array([1.0, -np.inf, np.nan, 0.0]), 2)
        array([1, 3])
    """
    order = np.argsort(log_prob, kind="stable")
    return order[~np.isnan(log_prob[order])][:count]


def blame(evidence: Evidence, places: npt.NDArray[np.int64]) -> list[Blame]:
    """For each of these held-out rows, the column whose change alone raises its log-density most.

    The values tried are quantiles of the column in the reference rows. Unlike a z-score this sees a value that is
    usual by itself and absurd beside the others; it takes the model's word, not that of one column.
    """
    held_out, reference = evidence.held_out, evidence.reference
    width = held_out.rows.shape[1]
    if not len(places) or not len(reference):
        return [Blame(None, float("nan"), float("nan"))] * len(places)
    levels = np.linspace(0.05, 0.95, 9 if width <= 50 else 5)
    # Values that occur, so that whole numbers stay whole.
    candidates = np.quantile(reference, levels, axis=0, method="nearest")
    answers = []
    for place in places.tolist():
        row = held_out.rows[place]
        columns = np.arange(width) if width <= WIDE else _furthest(row, candidates)
        tried = np.tile(row, (len(columns), len(candidates), 1))
        tried[np.arange(len(columns)), :, columns] = candidates.T[columns]
        context = None
        if held_out.context is not None:
            context = np.tile(held_out.context[place], (len(columns) * len(candidates), 1))
        log_prob = evidence.model.log_prob(tried.reshape(-1, width), context).reshape(len(columns), -1)
        log_prob = np.where(np.isfinite(log_prob), log_prob, -np.inf)
        which, value = np.unravel_index(int(log_prob.argmax()), log_prob.shape)
        best = float(log_prob[which, value])
        if np.isfinite(best) and not best <= held_out.log_prob[place]:
            column = int(columns[which])
            answers.append(Blame(column, best, float(candidates[value, column])))
        else:
            answers.append(Blame(_misfit(evidence, row), float("nan"), float("nan")))
    return answers


def _furthest(row: Vector, candidates: Matrix) -> npt.NDArray[np.int64]:
    """The columns in which a row is furthest outside the quantiles, in units of their distance."""
    low, high = candidates[0], candidates[-1]
    beyond = np.abs(row - 0.5 * (low + high)) / np.maximum(high - low, 1e-300)
    return np.sort(np.argsort(-np.nan_to_num(beyond, nan=np.inf), kind="stable")[:TRIED])


def _misfit(evidence: Evidence, row: Vector) -> int | None:
    """The first column with a value that no density can have."""
    supports = supports_of(evidence.model.flow.bijector)
    for column, value in enumerate(row):
        inside = np.isfinite(value) if supports is None else bool(supports.supports[column].contains(value))
        if not inside:
            return column
    return None
