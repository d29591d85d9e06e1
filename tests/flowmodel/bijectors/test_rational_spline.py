"""Rational splines: FlowTorch's function, exact at the knots, and well behaved wherever they are asked."""

from __future__ import annotations

import math

import pytest
import torch
from flowtorch.ops import monotonic_rational_spline

import flowmodel.bijectors as bij
from flowmodel.bijectors.rational_spline import ORDERS, rational_spline, spline_parameter_count
from flowmodel.errors import PlanError

BINS, BOUND = 6, 2.5

both_orders = pytest.mark.parametrize("order", ORDERS)
both_ways = pytest.mark.parametrize("inverse", [False, True])


def raw(order: str, rows: int, spread: float = 1.5, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Raw parameters ``[3, P, rows]``."""
    generator = torch.Generator().manual_seed(1)
    size = spline_parameter_count(BINS, order)
    return spread * torch.randn(3, size, rows, generator=generator, dtype=torch.float64).to(dtype)


def knots(params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inner knots of splines ``[3, P, rows]``, x and y, by the definition."""
    fractions = [1e-3 + (1 - 1e-3 * BINS) * torch.softmax(params[:, at : at + BINS], 1) for at in (0, BINS)]
    x, y = (2 * BOUND * fraction.cumsum(1)[:, :-1] - BOUND for fraction in fractions)
    return x, y


@both_orders
@both_ways
def test_the_same_parameters_give_the_function_of_flowtorch(order, inverse):
    params = raw(order, 500)
    # Inside the bounds alone: beyond them the inverse of FlowTorch's quadratic order fails on an assertion.
    value = torch.linspace(-BOUND, BOUND, 1500, dtype=torch.float64).view(3, 500)
    # FlowTorch has the bins last, takes constrained parameters, and a slope of 0.999 at the bounds.
    last = params.transpose(1, 2)
    widths, heights, slopes, rest = last.split([BINS, BINS, BINS - 1, last.shape[-1] - 3 * BINS + 1], -1)
    expected, expected_log_slope = monotonic_rational_spline(
        value,
        torch.softmax(widths, -1),
        torch.softmax(heights, -1),
        torch.nn.functional.softplus(slopes),
        torch.sigmoid(rest) if order == "linear" else None,
        inverse=inverse,
        bound=BOUND,
    )
    mapped, log_slope = rational_spline(value, params, BINS, BOUND, order, inverse, edge_slope=0.999)
    torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_slope, expected_log_slope, rtol=0, atol=1e-9)


@both_orders
def test_knots_map_to_knots_and_bounds_to_bounds_exactly(order):
    params = raw(order, 20)
    x, y = knots(params)
    ends = torch.tensor([-BOUND, BOUND], dtype=torch.float64)[:, None].expand(2, 20)
    for at in range(BINS - 1):
        there, _ = rational_spline(x[:, at], params, BINS, BOUND, order, False)
        back, _ = rational_spline(y[:, at], params, BINS, BOUND, order, True)
        torch.testing.assert_close(there, y[:, at], rtol=0, atol=4e-15)
        torch.testing.assert_close(back, x[:, at], rtol=0, atol=4e-15)
    for end in ends:
        for inverse in (False, True):
            mapped, log_slope = rational_spline(end.expand(3, 20), params, BINS, BOUND, order, inverse)
            assert torch.equal(mapped, end.expand(3, 20))
            # The slope meets that of the identity outside.
            torch.testing.assert_close(log_slope, torch.zeros_like(log_slope), rtol=0, atol=1e-12)


@both_orders
@both_ways
def test_the_slope_is_continuous_at_the_knots(order, inverse):
    params = raw(order, 20)
    at = knots(params)[int(inverse)].transpose(0, 1)
    step = 1e-11
    for knot in at:
        _, before = rational_spline(knot - step, params, BINS, BOUND, order, inverse)
        _, after = rational_spline(knot + step, params, BINS, BOUND, order, inverse)
        # A log-slope changes by up to 1e6 for each unit of x where bins are narrow, so by 2e-5 over the two steps.
        torch.testing.assert_close(before, after, rtol=0, atol=1e-4)


@both_orders
@both_ways
def test_outside_the_bounds_it_is_the_identity(order, inverse):
    value = torch.tensor([-math.inf, -1e6, -2.500001, 2.500001, 77.0, math.inf], dtype=torch.float64).expand(3, 6)
    mapped, log_slope = rational_spline(value, raw(order, 1), BINS, BOUND, order, inverse)
    assert torch.equal(mapped, value)
    assert torch.equal(log_slope, torch.zeros_like(value))


@both_orders
@both_ways
def test_nan_gives_nan_for_its_row_alone(order, inverse):
    value = torch.tensor([0.3, math.nan, -1.0], dtype=torch.float64).expand(3, 3)
    params = raw(order, 3)
    mapped, log_slope = rational_spline(value, params, BINS, BOUND, order, inverse)
    alone, alone_log_slope = rational_spline(value[:, ::2], params[..., ::2], BINS, BOUND, order, inverse)
    assert torch.equal(mapped[:, ::2], alone)
    assert torch.equal(log_slope[:, ::2], alone_log_slope)
    assert bool(mapped[:, 1].isnan().all() & log_slope[:, 1].isnan().all())


@both_orders
@both_ways
@pytest.mark.parametrize("spread", [3.0, 30.0])
def test_wild_parameters_in_float32_stay_increasing_with_finite_gradients(order, inverse, spread):
    params = raw(order, 400, spread, torch.float32).requires_grad_()
    value = torch.linspace(-3, 3, 400).expand(3, 400).clone().requires_grad_()
    mapped, log_slope = rational_spline(value, params, BINS, BOUND, order, inverse)
    back, back_log_slope = rational_spline(mapped, params, BINS, BOUND, order, not inverse)
    again, _ = rational_spline(back, params, BINS, BOUND, order, inverse)
    torch.testing.assert_close(again, mapped, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(mapped.sum() + log_slope.sum() + back_log_slope.sum(), [value, params])
    for tensor in (mapped, log_slope, back_log_slope, *gradients):
        assert bool(tensor.isfinite().all())
    # One spline at many points.
    with torch.no_grad():
        line, _ = rational_spline(value, params[..., :1], BINS, BOUND, order, inverse)
    assert bool((line.diff(dim=1) >= 0).all())


@both_orders
def test_gradients_are_those_of_finite_differences(order):
    params = raw(order, 9).requires_grad_()
    value = torch.linspace(-2.4, 2.9, 27, dtype=torch.float64).view(3, 9).requires_grad_()
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda v, p, way=inverse: rational_spline(v, p, BINS, BOUND, order, way), (value, params)
        )


@pytest.mark.parametrize("plan", [bij.Spline, bij.SplineAutoregressive, bij.SplineCoupling])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"count_bins": 1}, "count_bins=1 given; expected a whole number from 2 to 1000"),
        ({"count_bins": 1001}, "count_bins=1001 given"),
        ({"count_bins": 8.0}, "count_bins=8.0 given"),
        ({"bound": 0.0}, "bound=0.0 given; expected a finite number above 0"),
        ({"bound": math.inf}, "bound=inf given"),
        ({"bound": "3"}, "bound='3' given"),
        ({"order": "cubic"}, "order='cubic' given; expected one of linear, quadratic"),
    ],
)
def test_arguments_out_of_range_are_refused(plan, arguments, text):
    with pytest.raises(PlanError, match=f"{plan.__name__}: {text}"):
        plan(**arguments)
