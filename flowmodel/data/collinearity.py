"""Columns that say nothing new, because others decide them: a density over them has no bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowmodel.data.table import Matrix, Table

TOLERANCE = 1e-6
"""The share of its spread that a column must have of its own, not to be called decided by others."""

_MOST_ROWS = 20_000


class Dependent(NamedTuple):
    """A column that follows from others.

    Args:
        column: its name.
        sources: names of the columns that it is a linear combination of, up to a constant.
        residual: what is left of it, as a share of its spread.
        equal: whether it is the same as its only source in every row.
    """

    column: str
    sources: tuple[str, ...]
    residual: float
    equal: bool

    def __str__(self) -> str:
        names = ", ".join(self.sources)
        if self.equal:
            return f"column {self.column} is the same as {names} in every row"
        return f"column {self.column} follows from {names} (up to {self.residual:.1g} of its spread)"


def dependent_columns(table: Table) -> list[Dependent]:
    """Columns that are linear combinations of earlier ones, within :data:`TOLERANCE` of their spread.

    The standardised columns are made orthogonal one after the other (modified Gram-Schmidt, twice, as Kahan and Parlett
    advise); what is left of one tells how far it is from the earlier ones. Up to 20 000 rows, evenly taken, are used.

    Example:
        >>> a = np.random.default_rng(0).standard_normal((100, 2))
        >>> table = Table(("a", "b", "sum"), np.column_stack([a, a.sum(1)]), "example")
        >>> [(one.column, one.sources) for one in dependent_columns(table)]
        [('sum', ('a', 'b'))]
    """
    rows = table.rows[:: max(1, len(table) // _MOST_ROWS)]
    if len(rows) <= 2:
        return []
    centred = rows - rows.mean(0)
    spread = np.sqrt((centred**2).sum(0))
    columns = centred / np.where(spread > 0, spread, 1.0)
    basis = np.empty((len(rows), 0))
    independent: list[int] = []
    found = []
    for place in range(columns.shape[1]):
        left = columns[:, place]
        for _ in range(2):
            left = left - basis @ (basis.T @ left)
        residual = float(np.linalg.norm(left))
        # With as many columns as rows, every further one follows, which says nothing about the data.
        if residual > TOLERANCE or basis.shape[1] >= len(rows) - 1:
            basis = np.column_stack([basis, left / max(residual, np.finfo(float).tiny)])
            independent.append(place)
        elif spread[place] > 0:
            found.append(_dependent(table, columns, place, independent, residual))
    return found


def _dependent(table: Table, columns: Matrix, place: int, independent: list[int], residual: float) -> Dependent:
    for other in range(place):
        if np.array_equal(table.rows[:, place], table.rows[:, other]):
            return Dependent(table.columns[place], (table.columns[other],), 0.0, True)
    weights = np.linalg.lstsq(columns[:, independent], columns[:, place], rcond=None)[0]
    used = [source for source, weight in zip(independent, weights, strict=True) if abs(weight) > TOLERANCE]
    return Dependent(table.columns[place], tuple(table.columns[source] for source in used), residual, False)
