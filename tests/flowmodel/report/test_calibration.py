"""Calibration: distances against scipy's, a right model inside the band and a wrong one outside, whatever the base."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from bases import BASES, base

from flowmodel.report.calibration import calibration, ks_band, ks_distances

DIMENSIONS = 4


def normal(count: int) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(count), torch.ones(count)), 1)


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((300, 3)) * [1, 1.5, 1] + [0, 0, 0.3]
    expected = [scipy.stats.kstest(noise[:, column], "norm").statistic for column in range(3)]
    # The flow's base is float32, so u is right to some 1e-7.
    np.testing.assert_allclose(calibration(normal(3), noise).distances, expected, atol=1e-6)
    uniforms = np.sort(rng.random((50, 2)), axis=0)
    expected = [scipy.stats.kstest(uniforms[:, column], "uniform").statistic for column in range(2)]
    np.testing.assert_allclose(ks_distances(uniforms), expected, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 10, 57, 1000, 100_000])
def test_band_is_the_95_percent_quantile_of_the_distance(count):
    assert ks_band(count) == pytest.approx(scipy.stats.kstwo.ppf(0.95, count), rel=0.01)


def test_a_right_model_leaves_the_band_in_one_dimension_of_twenty():
    noise = np.random.default_rng(1).standard_normal((200, 2000))
    outside = calibration(normal(2000), noise).outside
    # Binomial with mean 100 and standard deviation 9.7.
    assert 60 < outside < 140


@pytest.mark.parametrize("name", BASES)
def test_a_right_model_is_inside_and_a_wrong_one_outside(name):
    distribution = base(name, (DIMENSIONS,))
    torch.manual_seed(3)
    noise = distribution.sample((2000,)).numpy()
    right = calibration(distribution, noise)
    # Each dimension leaves the band with a probability of 5 %, two of four with 1 %.
    assert right.outside <= 1
    middle = np.median(noise, axis=0)
    wrong = calibration(distribution, middle + 1.4 * (noise - middle))
    assert wrong.outside == DIMENSIONS
    assert right.exact == (name in ("normal", "laplace", "uniform", "elementwise-mixture"))


def test_a_too_wide_sample_goes_up_and_then_down_and_a_shifted_one_keeps_its_side():
    noise = np.random.default_rng(0).standard_normal((3000, 2)) * [1.5, 1] - [0, 0.5]
    measured = calibration(normal(2), noise)
    level, height = measured.curve(0)
    assert height[level < 0.4].max() > measured.band
    assert height[level > 0.6].min() < -measured.band
    assert measured.curve(1)[1].min() > -measured.band
    for dimension in range(2):
        assert np.abs(measured.curve(dimension)[1]).max() == pytest.approx(measured.distances[dimension])
        assert (np.diff(measured.curve(dimension)[0]) >= 0).all()


def test_draws_leave_torchs_generator_as_it_is():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    assert not calibration(base("student-t", (2,)), np.zeros((5, 2))).exact
    assert torch.equal(torch.randn(3), expected)
