"""What the models are fitted to: real tables that scikit-learn brings along, and samples of closed-form densities.

A table is split anew for each seed, a fifth of it held out for the test. Printed values are rounded, and a model would
be paid without limit for finding the ties, so every value is spread evenly over its last printed digit first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import sklearn.datasets
import torch

from quality.densities import DENSITIES

Array = np.ndarray

TRAIN_ROWS = 3000
"""Rows to fit, a tenth of them for validation, of each closed-form density."""

TEST_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class Split:
    """One seed's rows ``[N, D]`` in data units; ``true_nll`` is the truth's on the test rows, where it is known."""

    train: Array
    validation: Array
    test: Array
    true_nll: float | None


def breast_cancer() -> Array:
    """569 tumours, 30 measurements."""
    return sklearn.datasets.load_breast_cancer().data


def wine() -> Array:
    """178 wines, 13 measurements."""
    return sklearn.datasets.load_wine().data


def diabetes() -> Array:
    """442 patients, 8 measurements; without sex, and without s4, which is a whole number for most rows."""
    data = sklearn.datasets.load_diabetes(scaled=False)
    keep = [place for place, name in enumerate(data.feature_names) if name not in ("sex", "s4")]
    return data.data[:, keep]


def iris() -> Array:
    """150 flowers, 4 measurements."""
    return sklearn.datasets.load_iris().data


def digits() -> Array:
    """1797 handwritten digits: the ink in 4 bands of 2 halves each, 8 columns."""
    return sklearn.datasets.load_digits().images.reshape(-1, 4, 2, 2, 4).sum((2, 4)).reshape(-1, 8)


REAL: dict[str, Callable[[], Array]] = {
    "breast cancer": breast_cancer,
    "wine": wine,
    "diabetes": diabetes,
    "iris": iris,
    "digits": digits,
}

TABLES = (*REAL, *DENSITIES)


def split(name: str, seed: int) -> Split:
    """The rows of one table for one seed."""
    random = np.random.default_rng(seed)
    if name in REAL:
        data = REAL[name]()
        data = data + last_digit(data) * random.uniform(-0.5, 0.5, data.shape)
        data = data[random.permutation(len(data))]
        test_rows = round(0.2 * len(data))
        rows, test, true_nll = data[test_rows:], data[:test_rows], None
    else:
        density = DENSITIES[name]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = density.sample(TRAIN_ROWS + TEST_ROWS)
        rows, test = drawn[:TRAIN_ROWS].numpy(), drawn[TRAIN_ROWS:].numpy()
        true_nll = -float(density.log_prob(drawn[TRAIN_ROWS:]).mean())
    validation_rows = round(0.1 * len(rows))
    return Split(rows[validation_rows:], rows[:validation_rows], test, true_nll)


def last_digit(data: Array) -> Array:
    """For each column the largest power of ten that all its values are multiples of.

    Example:
        >>> last_digit(np.array([[1.5, 30.0], [2.0, 40.0]]))
        array([ 0.1, 10. ])
    """
    steps = np.empty(data.shape[1])
    for column, values in enumerate(data.T):
        exponent = next(e for e in range(6, -13, -1) if np.allclose(values, np.round(values, -e), rtol=1e-9, atol=0))
        steps[column] = 10.0**exponent
    return steps
