"""A layer becomes the Normal of greatest likelihood, exactly, or stays the identity."""

from __future__ import annotations

import pytest
import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.bijectors.gaussian import become_gaussian_, can_be_gaussian
from flowmodel.errors import PlanError

SIZE = 5
FITTED = params.DenseAutoregressive((24, 24), "tanh", (3, 0, 4, 1, 2), skip_connections="fitted")


def correlated(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return 3 + torch.randn(count, SIZE, generator=generator, dtype=torch.float64) @ mixing


def become(layer: bij.BijectorPlan, rows: torch.Tensor) -> tuple[dist.Flow, bool]:
    base = torch.distributions.Normal(torch.zeros(SIZE), torch.ones(SIZE))
    flow = dist.Flow(torch.distributions.Independent(base, 1), layer).to(torch.float64)
    return flow, become_gaussian_(flow.bijector, rows.mean(0), rows.T.cov(correction=0))


@pytest.mark.parametrize("scale_fn", ["bounded", "exp"])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_density_is_that_of_the_normal_on_the_rows_and_off_them(inverted, scale_fn):
    layer = bij.AffineAutoregressive(FITTED, scale_fn=scale_fn)
    rows = correlated(200)
    flow, was_set = become(bij.Invert(layer) if inverted else layer, rows)
    assert was_set
    given = torch.cat([rows, correlated(50, seed=1), 10 * correlated(50, seed=2)])
    expected = torch.distributions.MultivariateNormal(rows.mean(0), rows.T.cov(correction=0)).log_prob(given)
    # Exact but for rounding; the rows ten times as far have log-densities of some thousand nats.
    torch.testing.assert_close(flow.log_prob(given), expected, rtol=1e-9, atol=1e-9)


def degenerate(case: str) -> torch.Tensor:
    rows = correlated(200)
    if case == "a column that follows from others":
        rows[:, 4] = rows[:, 0] - 2 * rows[:, 1]
    elif case == "a column all but without spread":
        rows[:, 4] *= 1e-6
    elif case == "a column without spread":
        rows[:, 4] = 1.0
    return rows[:3] if case == "fewer rows than columns" else rows


@pytest.mark.parametrize(
    "case",
    [
        "fewer rows than columns",
        "a column that follows from others",
        "a column all but without spread",
        "a column without spread",
    ],
)
def test_where_that_normal_is_degenerate_the_layer_stays_the_identity(case):
    rows = degenerate(case)
    flow, was_set = become(bij.Invert(bij.AffineAutoregressive(FITTED)), rows)
    assert not was_set
    noise, log_det = flow.bijector.inverse_and_log_det(rows)
    assert torch.equal(noise, rows)
    assert not log_det.any()


@pytest.mark.parametrize(
    "plan",
    [
        bij.AffineAutoregressive(params.DenseAutoregressive((24,))),
        bij.AffineAutoregressive(params.DenseAutoregressive((24,), skip_connections=True)),
        bij.AffineAutoregressive(FITTED, scale_fn="sigmoid"),
        bij.AffineAutoregressive(FITTED, clamp_values=True),
        bij.Invert(bij.SplineAutoregressive(params.DenseAutoregressive((24,), skip_connections=True))),
        bij.Affine(),
    ],
    ids=["no skip connections", "trained ones", "sigmoid", "clamped", "spline", "no network"],
)
def test_what_cannot_be_it(plan):
    assert not can_be_gaussian(plan(shape=torch.Size([SIZE])))


def test_a_layer_that_was_set_or_trained_is_let_alone():
    flow, _ = become(bij.AffineAutoregressive(FITTED), correlated(200))
    assert not can_be_gaussian(flow.bijector)
    layer = bij.AffineAutoregressive(FITTED)(shape=torch.Size([SIZE]))
    assert can_be_gaussian(layer)
    with torch.no_grad():
        layer.made.weights[-1][0, 0] = 0.1
    assert not can_be_gaussian(layer)


def test_no_gradient_moves_fitted_skip_connections():
    layer = bij.AffineAutoregressive(FITTED)(shape=torch.Size([SIZE]))
    x, y = torch.randn(2, 7, SIZE)
    found, log_det = layer.forward_and_log_det(x)
    ((found - y).square().sum() + log_det.sum()).backward()
    assert layer.made.biases[-1].grad is not None
    assert layer.made.skip_weight.grad is None


def test_a_spline_has_no_shift_to_fit():
    with pytest.raises(PlanError, match="skip_connections='fitted' given, and a spline has no shift"):
        bij.SplineAutoregressive(FITTED)
