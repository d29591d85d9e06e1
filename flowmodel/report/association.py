"""Which columns belong together, by rank correlation, which no monotone change of units alters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

_ENOUGH_ROWS = 5000


def rank_correlation(left: Matrix, right: Matrix) -> Matrix:
    """Spearman's correlation ``[K, L]`` of columns of ``left[N, K]`` with those of ``right[N, L]``; 0 for constants.

    Example:
        >>> x = np.arange(5.0)
        >>> rank_correlation(np.stack([x, 0 * x], axis=1), np.stack([np.exp(x), -x], axis=1))
        array([[ 1., -1.], [ 0.,  0.]])
    """
    correlation: Matrix = _standard_ranks(left[:_ENOUGH_ROWS]).T @ _standard_ranks(right[:_ENOUGH_ROWS])
    return correlation.round(12) + 0.0


def telling_columns(data: Matrix, most: int) -> list[int]:
    """The columns to show: all, or those most correlated with others, in their own order.

    Example:
        >>> x = np.arange(10.0)
        >>> telling_columns(np.stack([np.cos(x), x, x**3], axis=1), most=2)
        [1, 2]
    """
    if data.shape[1] <= most:
        return list(range(data.shape[1]))
    strength = np.abs(rank_correlation(data, data))
    np.fill_diagonal(strength, 0.0)
    return sorted(np.argsort(-strength.max(0), kind="stable")[:most].tolist())


def followed(noise: Matrix, rows: Matrix) -> tuple[list[int], Vector]:
    """The column of ``rows[N, D]`` that each dimension of ``noise[N, D]`` goes with most closely.

    Permutations lead the dimensions of the noise to other columns of the data; correlation finds them again.

    Returns:
        Columns, and the size of their rank correlations ``[D]``.
    """
    strength = np.abs(rank_correlation(noise, rows))
    return strength.argmax(1).tolist(), strength.max(1)


def _standard_ranks(values: Matrix) -> Matrix:
    """Ranks, ties at their mean, centred and of length 1."""
    ranks = np.zeros(values.shape)
    for column in range(values.shape[1]):
        _, places, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ranks[:, column] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    ranks -= ranks.mean(0) if len(ranks) else 0.0
    length = np.sqrt((ranks**2).sum(0))
    standard: Matrix = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return standard
