"""FlowTorch 0.8 with our weights gives our log-densities, where it works.

Its release 0.8 knows one scale only, ``exp`` of a clamped output. Its ``Invert`` gives the log-determinant the wrong
sign and is no oracle; its slopes at the outermost knots of a spline are 0.999, and are set so on our side.
"""

from __future__ import annotations

import flowtorch.bijectors
import flowtorch.distributions
import flowtorch.parameters
import pytest
import torch
from weights import copy_network, normal, trained

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.bijectors.autoregressive_layer import AutoregressiveBijector
from flowmodel.bijectors.elementwise_layer import ElementwiseBijector
from flowmodel.bijectors.rational_spline import rational_spline
from flowmodel.bijectors.spline_transformer import SplineTransformer

SIZE, BINS, BOUND = 5, 6, 4.0
HIDDEN = (16, 20)


def their_network(permutation: tuple[int, ...]) -> flowtorch.Lazy:
    return flowtorch.parameters.DenseAutoregressive(hidden_dims=HIDDEN, permutation=permutation)


def fill(theirs: torch.nn.Module, ours: bij.Bijector) -> None:
    theirs.double()
    copy_network(ours.made, [theirs._params_fn.layers[place] for place in (0, 2, 4)])


def affine(permutation: tuple[int, ...] | None = None) -> bij.AffineAutoregressive:
    return bij.AffineAutoregressive(
        params.DenseAutoregressive(HIDDEN, permutation=permutation), scale_fn="exp", clamp_values=True
    )


@pytest.mark.parametrize("permutation", [(0, 1, 2, 3, 4), (3, 0, 4, 1, 2)])
@pytest.mark.parametrize("deviation", [0.3, 1.5])
def test_affine_autoregressive_flow(permutation, deviation):
    flow = dist.Flow(normal(SIZE), affine(permutation))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += deviation * torch.randn_like(parameter)
    theirs = flowtorch.distributions.Flow(
        normal(SIZE), flowtorch.bijectors.AffineAutoregressive(their_network(permutation))
    )
    fill(theirs.bijector, flow.bijector)
    y = torch.randn(200, SIZE, dtype=torch.float64)
    # The larger weights drive most scales into the clamp, and noise to 1e6 and log-densities to -1e12.
    torch.testing.assert_close(flow.log_prob(y), theirs.log_prob(y), rtol=1e-9, atol=1e-9)


def test_composition_with_a_permutation():
    permutation, order = (4, 2, 0, 1, 3), (0, 1, 2, 3, 4)
    flow = dist.Flow(normal(SIZE), bij.Compose([affine(), bij.Permute(permutation), affine()]))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    layer = flowtorch.bijectors.AffineAutoregressive(their_network(order))
    theirs = flowtorch.distributions.Flow(
        normal(SIZE),
        flowtorch.bijectors.Compose([layer, flowtorch.bijectors.Permute(permutation=torch.tensor(permutation)), layer]),
    )
    for place in (0, 2):
        fill(theirs.bijector.bijectors[place], flow.bijector.chain[place])
    y = torch.randn(200, SIZE, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(y), theirs.log_prob(y), rtol=1e-9, atol=1e-9)


class TheirSpline(SplineTransformer):
    """Our spline with FlowTorch's start and FlowTorch's slopes at the outermost knots."""

    def push(self, x: torch.Tensor, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rational_spline(x, params, BINS, BOUND, self.order, False, edge_slope=0.999)

    def pull(self, y: torch.Tensor, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rational_spline(y, params, BINS, BOUND, self.order, True, edge_slope=0.999)


@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("permutation", [(0, 1, 2, 3, 4), (3, 0, 4, 1, 2)])
def test_spline_autoregressive_both_ways(order, permutation):
    network = params.DenseAutoregressive(HIDDEN, permutation=permutation)
    plan = bij.SplineAutoregressive(network, count_bins=BINS, bound=BOUND, order=order)
    ours = trained(plan, SIZE)
    ours = AutoregressiveBijector(ours.event_shape, None, ours.made, TheirSpline(BINS, BOUND, order))
    theirs = flowtorch.bijectors.SplineAutoregressive(
        their_network(permutation), count_bins=BINS, bound=BOUND, order=order
    )(shape=torch.Size([SIZE]))
    fill(theirs, ours)
    x = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    y = theirs.forward(x)
    log_det = theirs.log_abs_det_jacobian(x, y)
    assert not torch.allclose(y, x)
    torch.testing.assert_close(ours.forward_and_log_det(x), (y.detach(), log_det.detach()), rtol=1e-9, atol=1e-9)
    # Their inverse fails for the quadratic order where a value lies outside, and cancels near the knots of the linear
    # one: a few digits are lost, on their side.
    y = BOUND * (2 * torch.rand(200, SIZE, dtype=torch.float64) - 1)
    torch.testing.assert_close(ours.inverse(y).detach(), theirs.inverse(y).detach(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_elementwise_spline(order):
    ours = ElementwiseBijector(torch.Size([SIZE]), None, TheirSpline(BINS, BOUND, order)).to(torch.float64)
    theirs = flowtorch.bijectors.Spline(count_bins=BINS, bound=BOUND, order=order)(shape=torch.Size([SIZE])).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
        ours.parameters_of_dims.values.copy_(torch.cat(list(theirs.parameters()), 1))
    x = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    y = theirs.forward(x)
    log_det = theirs.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(ours.forward_and_log_det(x), (y, log_det.sum(1)), rtol=1e-9, atol=1e-9)
