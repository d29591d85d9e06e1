"""Shuffled, repeatable split of rows into training, validation and test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowmodel.errors import DataError

Indices = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Row numbers of three parts that do not overlap and together are all rows."""

    train: Indices
    validation: Indices
    test: Indices


def split_rows(count: int, *, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Shuffle ``count`` rows and split them; the same seed gives the same split.

    The validation rows choose the best weights, so only the test rows say how well a model does on rows it never met.

    Args:
        count: Number of rows.
        validation: Fraction of all rows for validation; a fraction above 0 gets at least one row.
        test: Fraction of all rows for the test, likewise.
        seed: Seed of the shuffle, 0 or above.

    Raises:
        DataError: A fraction is out of range, or nothing would be left to train on.

    Example:
        >>> split = split_rows(10, validation=0.2, test=0.1)
        >>> len(split.train), len(split.validation), len(split.test)
        (7, 2, 1)
    """
    for name, fraction in (("validation", validation), ("test", test)):
        if not 0 <= fraction < 1:
            raise DataError(f"{name} fraction {fraction} is out of range; expected 0 up to, not including, 1")
    sizes = [max(1, round(fraction * count)) if fraction else 0 for fraction in (validation, test)]
    if sum(sizes) >= count:
        raise DataError(
            f"{count} rows cannot be split into {sizes[0]} for validation and {sizes[1]} for the test with any left to "
            "train on; give more rows or smaller fractions"
        )
    order = np.random.default_rng(seed).permutation(count)
    return Split(order[sum(sizes) :], order[: sizes[0]], order[sizes[0] : sum(sizes)])
