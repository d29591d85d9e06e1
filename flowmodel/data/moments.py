"""Mean, spread and range of columns that come in pieces."""

from __future__ import annotations

import numpy as np

from flowmodel.data.table import Matrix


class Moments:
    """What is known of the columns of all rows seen so far, in float64.

    Pieces are merged as in Chan, Golub and LeVeque (1983), so that nothing is lost to a large mean.

    Args:
        columns: Number of columns.

    Example:
        >>> moments = Moments(1)
        >>> moments.add(np.array([[1.0], [2.0]]))
        >>> moments.add(np.array([[6.0]]))
        >>> moments.count, float(moments.mean[0]), float(moments.variance[0])
        (3, 3.0, 4.666666666666667)
    """

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.mean: Matrix = np.zeros(columns)
        self.lowest: Matrix = np.full(columns, np.inf)
        self.highest: Matrix = np.full(columns, -np.inf)
        self._squares: Matrix = np.zeros(columns)

    @property
    def variance(self) -> Matrix:
        """Mean squared distance from the mean, of each column."""
        return self._squares / max(self.count, 1)

    @property
    def deviation(self) -> Matrix:
        """Standard deviation of each column."""
        return np.sqrt(self.variance)

    def add(self, rows: Matrix) -> None:
        """Take in rows ``[N, D]``."""
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        total, difference = self.count + len(rows), mean - self.mean
        self._squares += ((rows - mean) ** 2).sum(axis=0) + difference**2 * (self.count * len(rows) / total)
        self.mean = self.mean + difference * (len(rows) / total)
        self.lowest = np.minimum(self.lowest, rows.min(axis=0))
        self.highest = np.maximum(self.highest, rows.max(axis=0))
        self.count = total
