"""Our weights in nflows' flows give our log-densities.

nflows adds 0.001 to its softplus, which is set to nought here; its splines have our formulas, slopes at the outermost
knots included.
"""

from __future__ import annotations

import math

import pytest
import torch
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.transforms.autoregressive import (
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
)
from nflows.transforms.base import CompositeTransform
from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform
from nflows.transforms.permutations import Permutation
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from weights import copy_dense, copy_network, normal, trained

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.bijectors.rational_spline import rational_spline

SIZE, HIDDEN, BINS, BOUND = 5, 16, 6, 4.0
SLOPE_SHIFT = math.log(math.expm1(1 - 1e-3))
"""Our slopes start at 1: what is added to them before the softplus goes into nflows' biases."""


def layers_of(transform: torch.nn.Module) -> list[torch.nn.Module]:
    network = transform.autoregressive_net
    return [network.initial_layer, network.blocks[0].linear, network.final_layer]


def masked_affine(bijector: bij.Bijector) -> MaskedAffineAutoregressiveTransform:
    theirs = MaskedAffineAutoregressiveTransform(SIZE, HIDDEN, num_blocks=1, use_residual_blocks=False).double()
    theirs._epsilon = 0.0
    layers = layers_of(theirs)
    copy_network(bijector.made, layers)
    # They have the scale first and the shift second.
    with torch.no_grad():
        for values in (layers[-1].weight, layers[-1].bias, layers[-1].mask):
            values.copy_(values.unflatten(0, (SIZE, 2)).flip(1).flatten(0, 1))
    return theirs


def masked_spline(bijector: bij.Bijector) -> MaskedPiecewiseRationalQuadraticAutoregressiveTransform:
    theirs = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        SIZE, HIDDEN, num_bins=BINS, tails="linear", tail_bound=BOUND, num_blocks=1, use_residual_blocks=False
    ).double()
    layers = layers_of(theirs)
    copy_network(bijector.made, layers)
    with torch.no_grad():
        layers[-1].bias.unflatten(0, (SIZE, 3 * BINS - 1))[:, 2 * BINS :] += SLOPE_SHIFT
    return theirs


NETWORK = params.DenseAutoregressive((HIDDEN, HIDDEN))
LAYERS = {
    "affine": (bij.AffineAutoregressive(NETWORK, scale_fn="softplus"), masked_affine),
    "spline": (bij.SplineAutoregressive(NETWORK, count_bins=BINS, bound=BOUND, order="quadratic"), masked_spline),
}


@pytest.mark.parametrize("kind", list(LAYERS))
def test_autoregressive_layer_both_ways(kind):
    plan, masked = LAYERS[kind]
    bijector = trained(plan, SIZE)
    theirs = masked(bijector)
    x = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    y, log_det = theirs(x)
    assert not torch.allclose(y, x)
    torch.testing.assert_close(bijector.forward_and_log_det(x), (y, log_det), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bijector.inverse_and_log_det(y), theirs.inverse(y), rtol=1e-8, atol=1e-8)


class Network(torch.nn.Sequential):
    """Three layers with the argument that nflows gives every conditioner."""

    def __init__(self, inputs: int, outputs: int) -> None:
        relu, linear = torch.nn.ReLU(), torch.nn.Linear
        super().__init__(linear(inputs, HIDDEN), relu, linear(HIDDEN, HIDDEN), relu, linear(HIDDEN, outputs))

    def forward(self, inputs: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        assert context is None
        return super().forward(inputs)


# It asks for networks that tell their width, by which it divides what goes into the softmax.
@pytest.mark.filterwarnings("ignore:Inputs to the softmax are not scaled down:UserWarning")
def test_spline_coupling_both_ways():
    plan = bij.SplineCoupling(
        params.Dense((HIDDEN, HIDDEN), nonlinearity="relu"), split=2, count_bins=BINS, bound=BOUND, order="quadratic"
    )
    bijector = trained(plan, SIZE)
    theirs = PiecewiseRationalQuadraticCouplingTransform(
        torch.arange(SIZE) >= 2, Network, num_bins=BINS, tails="linear", tail_bound=BOUND
    ).double()
    layers = [theirs.transform_net[place] for place in (0, 2, 4)]
    copy_dense(bijector.network, layers)
    with torch.no_grad():
        layers[-1].bias.unflatten(0, (SIZE - 2, 3 * BINS - 1))[:, 2 * BINS :] += SLOPE_SHIFT
    x = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    y, log_det = theirs(x)
    assert not torch.allclose(y, x)
    torch.testing.assert_close(bijector.forward_and_log_det(x), (y, log_det), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bijector.inverse_and_log_det(y), theirs.inverse(y), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_flow_of_layers_and_permutations(kind):
    plan, masked = LAYERS[kind]
    permutation = (4, 2, 0, 1, 3)
    flow = dist.Flow(normal(SIZE), bij.Compose([bij.Invert(plan), bij.Permute(permutation), bij.Invert(plan)]))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    first, _, second = flow.bijector.chain
    # Ours lists the layers from noise to data, theirs from data to noise.
    back = Permutation(torch.argsort(torch.tensor(permutation)))
    theirs = Flow(CompositeTransform([masked(second.inner), back, masked(first.inner)]), StandardNormal([SIZE]))
    y = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(y), theirs.double().log_prob(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_quadratic_spline_of_the_same_raw_parameters(inverse):
    raw = 2 * torch.randn(3 * BINS - 1, 4000, dtype=torch.float64)
    value = 3 * torch.randn(4000, dtype=torch.float64)
    expected = unconstrained_rational_quadratic_spline(
        value,
        raw[:BINS].T.contiguous(),
        raw[BINS : 2 * BINS].T.contiguous(),
        raw[2 * BINS :].T.contiguous(),
        inverse=inverse,
        tail_bound=BOUND,
    )
    ours = rational_spline(value, raw, BINS, BOUND, "quadratic", inverse)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)
