"""The walk through the degrees, whatever the transformer: the inverse and gradient of D full passes."""

from __future__ import annotations

import pytest
import torch
from flows import contexts, trained_flow

import flowmodel.bijectors as bij
import flowmodel.parameters as params

MADE = params.DenseAutoregressive
ORDER = (2, 0, 4, 1, 3)


@pytest.mark.parametrize("context_shape", [None, (2,)])
@pytest.mark.parametrize(
    "plan",
    [
        # Limits that the raw scales of the trained flow pass in both directions.
        bij.AffineAutoregressive(MADE((20,)), clamp_values=True, log_scale_min_clip=-0.2, log_scale_max_clip=0.3),
        bij.AffineAutoregressive(MADE((20, 16), permutation=ORDER, skip_connections=True), scale_fn="softplus"),
        bij.AffineAutoregressive(MADE((20, 16)), scale_fn="sigmoid"),
        bij.SplineAutoregressive(MADE((20, 16), permutation=ORDER, skip_connections=True), count_bins=4),
        bij.SplineAutoregressive(MADE((20,), nonlinearity="tanh"), order="quadratic", count_bins=3),
    ],
    ids=["clamped", "skip", "sigmoid", "linear", "quadratic"],
)
def test_walk_and_its_gradient_are_those_of_full_passes(plan, context_shape, computed_by):
    flow = trained_flow(plan, (5,), context_shape)
    bijector = flow.bijector
    made = bijector.made
    y = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    context = contexts(12, context_shape, torch.float64)
    weights = torch.randn(12, 5, dtype=torch.float64)

    def by_full_passes():
        x = torch.zeros_like(y)
        for _ in range(5):
            theta = made(x, context).permute(1, 2, 0)
            x, log_slope = (part.T for part in bijector.transformer.pull(y.T, theta))
        return x, log_slope.sum(1)

    leaves = [y, *flow.parameters()] if context is None else [y, context.requires_grad_(), *flow.parameters()]
    (x, log_det), (expected_x, expected_log_det) = bijector.inverse_and_log_det(y, context), by_full_passes()
    torch.testing.assert_close(x, expected_x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-9, atol=1e-9)
    if plan == bij.AffineAutoregressive(
        MADE((20,)), clamp_values=True, log_scale_min_clip=-0.2, log_scale_max_clip=0.3
    ):
        u = made(x, context)[..., 1]
        assert bool((u < -0.2).any() and (u > 0.3).any())
    actual = torch.autograd.grad((weights * x).sum() + log_det.cos().sum(), leaves)
    expected = torch.autograd.grad((weights * expected_x).sum() + expected_log_det.cos().sum(), leaves)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * float(other.abs().max()))
