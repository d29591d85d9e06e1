"""Variational inference: a flow fitted to a density that can be evaluated, by samples of its own with gradients."""

from __future__ import annotations

import math

import pytest
import torch
from flows import normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params

BEST_OF_INDEPENDENT_NORMALS = 0.5 * math.log(18 / 11) - math.log(3)
r"""The highest ELBO of Neal's funnel under independent normals N(0, s^2) and N(m, t^2), -0.85 nats.

With :math:`E e^{-y} = e^{-m + t^2/2}` the ELBO is :math:`1 - \log 3 + \log s t - \frac12 (s^2 e^{-m + t^2/2} + (m^2 +
t^2)/9 + m)`, greatest at :math:`m = 0, t^2 = 18/11, s^2 = e^{-t^2/2}`. That of the funnel itself is 0.
"""


def elbo(flow, funnel, count):
    samples = flow.rsample((count,))
    return (funnel.log_prob(samples) - flow.log_prob(samples)).mean()


def test_the_best_of_independent_normals_is_what_optimisation_finds():
    loc, log_scale = torch.zeros(2, dtype=torch.float64), torch.tensor([-9 / 22, 0.5 * math.log(18 / 11)])
    q = torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.double().exp()), 1)
    samples = q.sample((200_000,))
    found = dist.NealsFunnel(dtype=torch.float64).log_prob(samples) - q.log_prob(samples)
    assert abs(float(found.mean()) - BEST_OF_INDEPENDENT_NORMALS) < 6 * float(found.std()) / 200_000**0.5


@pytest.mark.parametrize("scale_fn", ["bounded", "exp"])
def test_a_flow_fits_neals_funnel_far_better_than_independent_normals(scale_fn):
    torch.manual_seed(0)
    # The wide dimension comes first, so that it can steer the scale of the other.
    conditioner = params.DenseAutoregressive((32, 32), "tanh", permutation=(1, 0))
    flow = dist.Flow(normal((2,)), bij.AffineAutoregressive(conditioner, scale_fn=scale_fn))
    funnel = dist.NealsFunnel(dtype=torch.float64)
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)
    for _ in range(400):
        optimiser.zero_grad()
        loss = -elbo(flow, funnel, 128)
        assert bool(loss.isfinite())
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        reached = float(elbo(flow, funnel, 20_000))
        samples = flow.sample((20_000,))
    # The ELBO is minus the divergence from the funnel: at most 0, but for the noise of the samples.
    assert BEST_OF_INDEPENDENT_NORMALS + 0.7 < reached < 0.02
    # The neck is found: where y is low, x is as narrow as the funnel has it.
    x, y = samples.unbind(-1)
    for low, high in ((-4.0, -2.0), (-1.0, 1.0), (2.0, 4.0)):
        scaled = (x * torch.exp(-y / 2))[(y > low) & (y < high)]
        assert abs(float(scaled.std()) - 1) < 0.1
    # Independent normals stop at a deviation of 1.28 of the funnel's 3.
    assert 2 < float(y.std()) < 3.3
