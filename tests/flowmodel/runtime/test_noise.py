"""Noise is normal, and a row's noise depends on the seed and the row alone."""

import math

import numpy as np
import pytest
from scipy import stats

from flowmodel.runtime.noise import MAX_SEED, Draw, standard_normal


@pytest.mark.parametrize("seed", [0, 1, 2**63, MAX_SEED])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 30])
def test_rows_do_not_depend_on_how_they_are_asked_for(seed: int, size: int) -> None:
    whole = standard_normal(seed, 0, 200, size)
    for start, count in [(0, 1), (1, 1), (17, 33), (63, 64), (199, 1), (100, 100)]:
        np.testing.assert_array_equal(standard_normal(seed, start, count, size), whole[start : start + count])


def test_moments_and_distribution() -> None:
    count = 200_000
    noise = standard_normal(12345, 0, count, 3)
    # Five standard errors of each estimate.
    assert np.abs(noise.mean(axis=0)).max() < 5 / math.sqrt(count)
    assert np.abs(noise.var(axis=0) - 1).max() < 5 * math.sqrt(2 / count)
    assert np.abs((noise**3).mean(axis=0)).max() < 5 * math.sqrt(15 / count)
    assert np.abs((noise**4).mean(axis=0) - 3).max() < 5 * math.sqrt(96 / count)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 5 / math.sqrt(count)
    for column in noise.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


def test_neighbouring_rows_and_seeds_are_uncorrelated() -> None:
    count = 100_000
    noise, other = standard_normal(7, 0, count, 1)[:, 0], standard_normal(8, 0, count, 1)[:, 0]
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 5 / math.sqrt(count)
    assert abs(np.corrcoef(noise, other)[0, 1]) < 5 / math.sqrt(count)


def test_always_finite_and_float64() -> None:
    noise = standard_normal(MAX_SEED, 10**12, 100_000, 2)
    assert noise.dtype == np.float64
    assert np.isfinite(noise).all()


def test_known_values() -> None:
    """Samples are a promise to whoever kept a seed; these numbers must not change."""
    expected = [[-0.14712793, 0.50211215, -1.09110103], [-0.73446287, -2.10764985, -1.13312824]]
    np.testing.assert_allclose(standard_normal(7, 0, 2, 3), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 1, 1), "seed is -1"),
        ((MAX_SEED + 1, 0, 1, 1), "seed is 18446744073709551616"),
        ((0, -1, 1, 1), "start -1"),
        ((0, 0, -1, 1), "count -1"),
        ((0, 0, 1, 0), "size 0"),
    ],
)
def test_refuses_what_is_out_of_range(arguments: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        standard_normal(*arguments)


def test_no_rows() -> None:
    assert standard_normal(1, 5, 0, 3).shape == (0, 3)


def test_a_draw_is_seed_start_count() -> None:
    assert Draw(seed=1, start=2, count=3) == (1, 2, 3)
