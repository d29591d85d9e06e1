"""Our weights in zuko's flows give our log-densities, in both directions.

zuko bounds scales and knots by formulas of its own, whose limit without a bound is ``slope=inf``; what our formulas
make of the network's outputs is then handed over as the logarithms that zuko takes.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from weights import copy_dense, copy_network, normal, trained
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.bijectors.rational_spline import rational_spline

SIZE = 5


def masked_affine(bijector: bij.Bijector, context_size: int = 0) -> MaskedAutoregressiveTransform:
    made = bijector.made
    theirs = MaskedAutoregressiveTransform(
        SIZE, context_size, hidden_features=(16, 20), univariate=partial(MonotonicAffineTransform, slope=math.inf)
    ).double()
    copy_network(made, [theirs.hyper[0], theirs.hyper[2], theirs.hyper[4]])
    return theirs


@pytest.mark.parametrize("permutation", [None, (3, 0, 4, 1, 2)])
@pytest.mark.parametrize("context_size", [None, 2])
def test_affine_autoregressive_both_ways(permutation, context_size):
    network = params.DenseAutoregressive((16, 20), permutation=permutation)
    bijector = trained(bij.AffineAutoregressive(network, scale_fn="exp"), SIZE, context_size)
    context = None if context_size is None else torch.randn(200, context_size, dtype=torch.float64)
    theirs = masked_affine(bijector, context_size or 0)(context)
    x = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    y, log_det = theirs.call_and_ladj(x)
    torch.testing.assert_close(bijector.forward_and_log_det(x, context), (y, log_det), rtol=1e-9, atol=1e-9)
    back, inverse_log_det = theirs.inv.call_and_ladj(y)
    ours = bijector.inverse_and_log_det(y, context)
    # Their inverse repeats whole passes; both lose what the scales of the layer amplify.
    torch.testing.assert_close(ours, (back, inverse_log_det), rtol=1e-9, atol=1e-9)


def test_layers_with_permutations_between_them():
    network = params.DenseAutoregressive((16, 20), nonlinearity="relu")
    layer = bij.Invert(bij.AffineAutoregressive(network, scale_fn="exp"))
    permutation = (4, 2, 0, 1, 3)
    plan = bij.Compose([layer, bij.Permute(permutation), layer])
    flow = dist.Flow(normal(SIZE), plan)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    first, _, second = flow.bijector.chain
    y = torch.randn(200, SIZE, dtype=torch.float64)
    # From data to noise: the last layer first, then the inverse of the permutation.
    middle, log_det = masked_affine(second.inner)(None).call_and_ladj(y)
    middle = middle[:, torch.argsort(torch.tensor(permutation))]
    noise, first_log_det = masked_affine(first.inner)(None).call_and_ladj(middle)
    expected = normal(SIZE).log_prob(noise) + log_det + first_log_det
    torch.testing.assert_close(flow.log_prob(y), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context_size", [None, 2])
def test_affine_coupling_both_ways(context_size):
    plan = bij.AffineCoupling(params.Dense((16, 20), nonlinearity="relu"), split=2, scale_fn="exp")
    bijector = trained(plan, SIZE, context_size)
    context = None if context_size is None else torch.randn(200, context_size, dtype=torch.float64)
    theirs = GeneralCouplingTransform(
        SIZE,
        context_size or 0,
        mask=torch.arange(SIZE) < 2,
        hidden_features=(16, 20),
        univariate=partial(MonotonicAffineTransform, slope=math.inf),
    ).double()
    copy_dense(bijector.network, [theirs.hyper[0], theirs.hyper[2], theirs.hyper[4]])
    x = 2 * torch.randn(200, SIZE, dtype=torch.float64)
    y, log_det = theirs(context).call_and_ladj(x)
    torch.testing.assert_close(bijector.forward_and_log_det(x, context), (y, log_det), rtol=1e-9, atol=1e-9)
    ours = bijector.inverse_and_log_det(y, context)
    torch.testing.assert_close(ours, theirs(context).inv.call_and_ladj(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_quadratic_spline_of_the_same_knots(inverse):
    bins, bound = 6, 4.0
    raw = 2 * torch.randn(3 * bins - 1, 4000, dtype=torch.float64)
    value = 3 * torch.randn(4000, dtype=torch.float64)
    widths, heights = (
        torch.log(1e-3 + (1 - 1e-3 * bins) * torch.softmax(part, 0)).T for part in (raw[:bins], raw[bins : 2 * bins])
    )
    slopes = torch.log(torch.nn.functional.softplus(raw[2 * bins :]) + 1e-3).T
    theirs = MonotonicRQSTransform(widths, heights, slopes, bound=bound, slope=math.inf)
    mapped, log_slope = rational_spline(value, raw, bins, bound, "quadratic", inverse)
    assert 0.1 < (mapped == value).double().mean() < 0.5
    expected = theirs.inv(value) if inverse else theirs(value)
    # Their root of the quadratic subtracts numbers of like size, and loses some digits for it.
    torch.testing.assert_close(mapped, expected, rtol=1e-9, atol=1e-9)
    x = mapped if inverse else value
    expected_log_slope = theirs.log_abs_det_jacobian(x, None) * (-1 if inverse else 1)
    torch.testing.assert_close(log_slope, expected_log_slope, rtol=1e-9, atol=1e-8)
