"""Rank correlation against scipy's, and the columns chosen by it."""

from __future__ import annotations

import numpy as np
import scipy.stats

from flowmodel.report.association import followed, rank_correlation, telling_columns


def test_rank_correlation_is_that_of_scipy_ties_included():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 5, (200, 2)).astype(float), rng.standard_normal((200, 3))
    right[:, 0] += left[:, 1]
    expected = scipy.stats.spearmanr(left, right).statistic[:2, 2:]
    np.testing.assert_allclose(rank_correlation(left, right), expected, atol=1e-12)


def test_columns_that_depend_on_others_are_shown_and_constants_are_not():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((500, 10))
    data[:, [0, 1]] = 4.0
    data[:, 7] = data[:, 2] ** 3 + 0.1 * rng.standard_normal(500)
    chosen = telling_columns(data, 6)
    assert len(chosen) == 6
    assert {2, 7} <= set(chosen)
    assert not {0, 1} & set(chosen)
    assert telling_columns(data[:, :4], 6) == [0, 1, 2, 3]


def test_noise_is_led_back_to_its_column():
    rows = np.random.default_rng(0).standard_normal((400, 3))
    columns, strength = followed(-np.exp(rows[:, [2, 0, 1]]), rows)
    assert columns == [2, 0, 1]
    np.testing.assert_allclose(strength, 1)
