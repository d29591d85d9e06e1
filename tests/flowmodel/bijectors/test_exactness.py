"""Every bijector, shape, context and dtype: inverse, log-determinant, structure and gradient are exact.

float64 is held to 1e-9 (rounding is near 1e-13, amplified by the scales of a few layers); float32 to 1e-4 relative, the
rounding of float32 times the largest slope that the trained weights of the registry show.
"""

from __future__ import annotations

import pytest
import torch
from flows import CASES, CONTEXT_SHAPES, ELEMENTWISE, EVENT_SHAPES, PLANS, contexts, normal, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params

STARTS_ELSEWHERE = [name for name in PLANS if "-softplus" in name and not name.endswith("units")]
"""FlowTorch's softplus is not 1 at 0."""

AUTOREGRESSIVE = [name for name in PLANS if "autoregressive" in name or name in ("invert", "stack", "nested")]


def ways(name):
    """What may compute a flow: of the eager layers, native code covers the affine autoregressive ones."""
    return ("native", "torch") if name in AUTOREGRESSIVE and "spline" not in name else ("native",)


everything = pytest.mark.parametrize(
    ("plan", "event_shape", "context_shape", "computed_by"),
    [
        pytest.param(PLANS[name], event_shape, context_shape, by, id=f"{name}-{event_shape}-{context_shape}-{by}")
        for name, event_shape, context_shape in CASES
        for by in ways(name)
    ],
    indirect=["computed_by"],
)


@everything
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_round_trip_at_six_sigma(plan, event_shape, context_shape, dtype, tolerance, computed_by):
    flow = trained_flow(plan, event_shape, context_shape, dtype)
    noise = torch.linspace(-6, 6, 40, dtype=dtype)[:, None].expand(40, flow.bijector.event_size)
    noise = torch.stack([row[torch.randperm(len(row))] for row in noise * torch.randn_like(noise).sign()])
    noise = noise.reshape(40, *event_shape)
    context = contexts(40, context_shape, dtype)
    y, log_det = flow.bijector.forward_and_log_det(noise, context)
    back, inverse_log_det = flow.bijector.inverse_and_log_det(y, context)
    # The error of an inverse is that of its argument times the slope of the inverse, so it is measured in y too.
    again = flow.bijector.forward(back, context)
    torch.testing.assert_close(again, y, rtol=tolerance, atol=tolerance * float(y.detach().abs().max()))
    if dtype is torch.float64:
        torch.testing.assert_close(back, noise, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


@everything
def test_log_determinant_is_that_of_the_autograd_jacobian(plan, event_shape, context_shape, computed_by):
    flow = trained_flow(plan, event_shape, context_shape)
    x = torch.randn(4, *event_shape, dtype=torch.float64)
    context = contexts(4, context_shape, torch.float64)
    size = flow.bijector.event_size
    y = flow.bijector.forward(x, context).detach()
    for direction, given in ((flow.bijector.forward_and_log_det, x), (flow.bijector.inverse_and_log_det, y)):
        given.requires_grad_()
        value, log_det = direction(given, context)
        # Rows do not depend on each other, so the gradient of a column's sum holds a line of each row's Jacobian.
        columns = value.reshape(4, size).unbind(1)
        lines = [torch.autograd.grad(column.sum(), given, retain_graph=True)[0].reshape(4, size) for column in columns]
        slogdet = torch.linalg.slogdet(torch.stack(lines, dim=1)).logabsdet
        torch.testing.assert_close(log_det, slogdet, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("permutation", [None, (3, 0, 4, 1, 2)])
def test_jacobian_is_exactly_zero_where_a_dimension_comes_later(permutation, context_shape, computed_by):
    plan = bij.AffineAutoregressive(params.DenseAutoregressive((24, 20), permutation=permutation))
    flow = trained_flow(plan, (5,), context_shape)
    context = contexts(1, context_shape, torch.float64)
    x = torch.randn(1, 5, dtype=torch.float64)
    order = torch.tensor(permutation or range(5))
    for direction in (flow.bijector.forward, flow.bijector.inverse):
        jacobian = torch.autograd.functional.jacobian(lambda v, d=direction: d(v, context)[0], x)[:, 0]
        sorted_jacobian = jacobian[order][:, order]
        assert torch.equal(sorted_jacobian.triu(1), torch.zeros(5, 5, dtype=torch.float64))
        # No dependency is missing either: every earlier dimension matters.
        assert bool((sorted_jacobian.tril() != 0).sum() == 15)


@pytest.mark.parametrize(
    ("name", "computed_by"), [(name, by) for name in AUTOREGRESSIVE for by in ways(name)], indirect=["computed_by"]
)
@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
def test_implicit_gradient_is_that_of_finite_differences(name, context_shape, computed_by):
    flow = trained_flow(PLANS[name], (4,), context_shape)
    parameters = dict(flow.bijector.named_parameters())
    y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    context = contexts(3, context_shape, torch.float64)
    inputs = [y] if context is None else [y, context.requires_grad_()]

    class Inverse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bijector = flow.bijector

        def forward(self, *given):
            return self.bijector.inverse_and_log_det(*given)

    def inverse(*given):
        values = dict(zip((f"bijector.{key}" for key in parameters), given[len(inputs) :], strict=True))
        return torch.func.functional_call(Inverse(), values, given[: len(inputs)])

    # ReLU has kinks, which finite differences of 1e-6 meet with probability near nought; fast mode tests one random
    # direction through all parameters at once.
    free = [value.detach().clone().requires_grad_() for value in parameters.values()]
    assert torch.autograd.gradcheck(inverse, (*inputs, *free), fast_mode=True)


def test_implicit_gradient_is_autograd_through_the_inverse_by_full_passes(computed_by):
    flow = trained_flow(bij.AffineAutoregressive(params.DenseAutoregressive((40, 40))), (6,))
    y = torch.randn(16, 6, dtype=torch.float64, requires_grad=True)

    def by_full_passes(value):
        x = torch.zeros_like(value)
        for _ in range(6):
            shift, u = flow.bijector.made(x).unbind(-1)
            log_sigma = u / torch.sqrt(1 + (u / torch.log(torch.tensor(1000.0, dtype=torch.float64))) ** 2)
            x = (value - shift) * torch.exp(-log_sigma)
        return -0.5 * (x**2).sum(-1) - log_sigma.sum(-1)

    def by_degree(value):
        x, log_det = flow.bijector.inverse_and_log_det(value)
        return -0.5 * (x**2).sum(-1) + log_det

    expected = torch.autograd.grad(by_full_passes(y).sum(), [y, *flow.parameters()])
    actual = torch.autograd.grad(by_degree(y).sum(), [y, *flow.parameters()])
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_second_derivatives_through_the_inverse_are_refused(computed_by):
    flow = trained_flow(bij.AffineAutoregressive(), (2,))
    y = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(flow.log_prob(y).sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        score.sum().backward()


def test_a_linear_layer_of_constant_scale_is_a_multivariate_normal(computed_by):
    made_plan = params.DenseAutoregressive((3,), nonlinearity="leaky_relu")
    flow = dist.Flow(normal((3,)), bij.AffineAutoregressive(made_plan, scale_fn="exp"))
    made = flow.bijector.made
    # One hidden unit each of degree 0, 1, 2 carries x_1 and x_2 on, held far on the linear side of the activation.
    far, below = 1e4, torch.tensor([[0.0, 0, 0], [0.7, 0, 0], [-0.4, 1.1, 0]], dtype=torch.float64)
    log_sigma = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    with torch.no_grad():
        made.weights[0].copy_(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64))
        made.biases[0].fill_(far)
        made.weights[1].zero_()
        made.biases[1].zero_()
        made.weights[1][0::2, 1:] = below[:, :2]
        made.biases[1][0::2] = torch.tensor([1.0, -2, 3], dtype=torch.float64) - below.sum(1) * far
        made.biases[1][1::2] = log_sigma
    factor = below + torch.diag(log_sigma.exp())
    closed = torch.distributions.MultivariateNormal(torch.tensor([1.0, -2, 3], dtype=torch.float64), scale_tril=factor)
    y = closed.sample((200,))
    # 1e4 stands in the bias, so 1e-16 * 1e4 of each sum is lost: 1e-10 to spare.
    torch.testing.assert_close(flow.log_prob(y), closed.log_prob(y), rtol=0, atol=1e-9)


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
@pytest.mark.parametrize("name", [name for name in PLANS if name not in (*ELEMENTWISE, *STARTS_ELSEWHERE)])
def test_an_untrained_flow_equals_its_base(name, event_shape):
    flow = dist.Flow(normal(event_shape), PLANS[name])
    y = torch.randn(20, *event_shape, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(y), normal(event_shape).log_prob(y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    ["autoregressive", "invert", "stack", "preprocessed", "spline-autoregressive", "coupling", "coupling-spline"],
)
def test_density_of_a_plane_integrates_to_one(name):
    flow = trained_flow(PLANS[name], (2,))
    samples = flow.sample((20_000,))
    low, high = samples.amin(0) - 4 * samples.std(0), samples.amax(0) + 4 * samples.std(0)
    steps = 600
    axes = [torch.linspace(float(a), float(b), steps, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    with torch.no_grad():
        total = flow.log_prob(grid).exp().sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert abs(float(total) - 1) < 1e-2


def test_more_than_256_dimensions(computed_by):
    flow = dist.Flow(normal((300,), torch.float32), bij.AffineAutoregressive())
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    x = torch.randn(3, 300)
    torch.testing.assert_close(flow.bijector.inverse(flow.bijector.forward(x)), x, rtol=1e-4, atol=1e-4)


def test_a_row_that_is_not_finite_spoils_only_itself(computed_by):
    flow = trained_flow(PLANS["stack"], (5,))
    rows = torch.randn(6, 5, dtype=torch.float64)
    good = flow.log_prob(rows)
    rows[2, 1] = float("nan")
    rows[4, 0] = float("inf")
    mixed = flow.log_prob(rows)
    keep = torch.tensor([True, True, False, True, False, True])
    torch.testing.assert_close(mixed[keep], good[keep], rtol=1e-12, atol=1e-12)
    assert bool(mixed[2].isnan())
    assert not bool(mixed[4].isfinite())
