"""Supports and fixed functions in native code: exact at their ends, -inf outside, in float32 and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flows import normal, scorer_of

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.kernel import library
from flowmodel.kernel.native_flow import NativeFlow

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler when the package was installed")

SUPPORTS = {
    "real": bij.Real(),
    "positive": bij.Positive(),
    "bounded": bij.Bounded(0, 1),
    "bounded-wide": bij.Bounded(-1e6, 3),
    "at-least": bij.Integer(2),
    "rating": bij.Integer(1, 9),
    "whole": bij.Integer(),
    "periodic": bij.Periodic(-180, 360),
}
FUNCTIONS = {
    "affine": bij.AffineFixed(2.0, -3.0),
    "elu": bij.ELU(),
    "exp": bij.Exp(),
    "leaky-relu": bij.LeakyReLU(),
    "sigmoid": bij.Sigmoid(),
    "softplus": bij.Softplus(),
    "tanh": bij.Tanh(),
    "power": bij.Compose([bij.Exp(), bij.Power(1.7)]),
    "root": bij.Compose([bij.Exp(), bij.Power(-1 / 3)]),
}
POINTS = [0.0, 1.0, 9.0, 3.0, 1.5, 2.0, 9.5, -180.0, 180.0, 0.5, 0.25, math.pi, 1e6, 1e-3, 1e-30, 1e-300, 5e-324]
POINTS += [math.inf, math.nan, 1e300, 700.25, 0.9999999, 1 - 2**-53, 88.0, 20.5]
VALUES = np.array(sorted({s * p for p in POINTS for s in (1, -1)} | set(np.linspace(-40, 40, 321))))


def flow_of(plan: bij.BijectorPlan, dtype: torch.dtype) -> dist.Flow:
    return dist.Flow(normal((1,), dtype), plan)


def answers(flow: dist.Flow, instruction_set: str) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Log-densities of the values as data, and samples from them as noise with theirs; by torch and natively."""
    scorer, native = scorer_of(flow), NativeFlow(scorer_of(flow), instruction_set)
    column = VALUES[:, None]
    with torch.no_grad():
        scored = scorer.log_prob(torch.from_numpy(column)).numpy()
        rows, log_prob = (answer.numpy() for answer in scorer.sample(torch.from_numpy(column)))
    return (scored, rows[:, 0], log_prob), (native.log_prob(column), *(a.squeeze() for a in native.sample(column)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SUPPORTS)
def test_a_support_answers_as_torch_does_at_its_ends_and_outside(name, dtype):
    flow = flow_of(bij.Supports(SUPPORTS[name]), dtype)
    exact = 1e-11 if dtype == torch.float64 else 1e-5
    for instruction_set in library.available():
        by_torch, natively = answers(flow, instruction_set)
        for expected, answered in zip(by_torch, natively, strict=True):
            np.testing.assert_allclose(answered, expected, rtol=exact, atol=exact)
        low, high = SUPPORTS[name].interval
        outside = (low >= VALUES) | (high <= VALUES)
        assert outside.sum() >= 2
        assert (natively[0][outside] == -np.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_fixed_function_answers_as_torch_does_in_both_tails(name, inverted, dtype):
    plan = FUNCTIONS[name]
    if inverted:
        # Out of the line and back in, for the base is one of real numbers.
        plan = bij.Compose([plan, bij.Invert(plan)])
    flow = flow_of(plan, dtype)
    exact = 1e-11 if dtype == torch.float64 else 2e-5
    # What is on its way back has lost digits where the function is flat, by the last bit of it in either code.
    compared = (np.abs(VALUES) < 4) | ~np.isfinite(VALUES) if inverted else np.full(len(VALUES), True)
    for instruction_set in library.available():
        by_torch, natively = answers(flow, instruction_set)
        for expected, answered in zip(by_torch, natively, strict=True):
            np.testing.assert_allclose(answered[compared], expected[compared], rtol=exact, atol=exact)


@pytest.mark.parametrize("order", [0, 1])
def test_supports_read_float64_in_a_flow_of_float32(order):
    # At 1e8 a float32 is a multiple of 8, which is many deviations here.
    plans = [bij.Standardize(), bij.Supports((bij.Positive(), bij.Real()))]
    flow = dist.Flow(normal((2,), torch.float32), bij.Compose(plans if order else plans[:1]))
    rows = 1e8 + torch.randn(100, 2, dtype=torch.float64)
    flow.standardize_(rows)
    native = NativeFlow(scorer_of(flow))
    with torch.no_grad():
        expected = flow.log_prob(rows).numpy()
    np.testing.assert_allclose(native.log_prob(rows.numpy()), expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.5


def test_standardisation_away_from_the_data_and_inverted():
    parts = [bij.Standardize(), bij.Softplus(), bij.Invert(bij.Softplus()), bij.Invert(bij.Standardize())]
    flow = dist.Flow(normal((2,)), bij.Compose([*parts, bij.Standardize()]))
    rows = torch.randn(100, 2, dtype=torch.float64) * torch.tensor([3.0, 0.2]) + 5
    flow.standardize_(rows)
    with torch.no_grad():
        for part in flow.bijector.modules():
            if isinstance(getattr(part, "location", None), torch.Tensor):
                part.location += 0.5
                part.scale *= 1.5
        expected = flow.log_prob(rows).numpy()
    native = NativeFlow(scorer_of(flow))
    np.testing.assert_allclose(native.log_prob(rows.numpy()), expected, rtol=1e-12, atol=1e-12)


def test_whole_columns_are_rounded_and_scored_as_rounded():
    supports = (bij.Integer(0), bij.Real(), bij.Integer(1, 9))
    flow = dist.Flow(normal((3,), torch.float32), bij.Compose([bij.Standardize(), bij.Supports(supports)]))
    flow.standardize_(torch.rand(100, 3, dtype=torch.float64) * 7 + 1.2)
    native = NativeFlow(scorer_of(flow))
    rows, log_prob = native.sample(np.random.default_rng(0).standard_normal((1000, 3)))
    whole = rows[:, [0, 2]]
    np.testing.assert_array_equal(whole, np.round(whole))
    assert not np.signbit(whole).any()
    assert whole.min() >= 0
    assert (rows[:, 1] != np.round(rows[:, 1])).any()
    np.testing.assert_array_equal(native.log_prob(rows), log_prob)
