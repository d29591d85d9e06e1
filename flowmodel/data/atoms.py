"""Values that repeat in a column of real numbers: there a density has no bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowmodel.data.table import Table

SHARE = 0.1
"""The share of rows with one exact value from which on that value is called an atom."""


class Atom(NamedTuple):
    """A column's most frequent value, and its share of the rows."""

    column: str
    value: float
    share: float

    def __str__(self) -> str:
        return f"column {self.column} is exactly {self.value:g} in {self.share:.0%} of the rows"


def find_atoms(table: Table) -> list[Atom]:
    """The columns of which more than :data:`SHARE` of the rows have one exact value.

    Example:
        >>> print(*find_atoms(Table(("rain",), np.array([[0.0], [0.0], [1.5], [0.2]]), "example")))
        column rain is exactly 0 in 50% of the rows
    """
    found = []
    for place, name in enumerate(table.columns):
        values, counts = np.unique(table.rows[:, place], return_counts=True)
        most = int(counts.argmax())
        # A value that stands once is no atom, however few the rows.
        if counts[most] > 1 and counts[most] > SHARE * len(table):
            found.append(Atom(name, float(values[most]), float(counts[most] / len(table))))
    return found
