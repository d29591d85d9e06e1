"""Bijectors without parameters: tails, ends of intervals, and rows outside of them."""

from __future__ import annotations

import pytest
import torch
from flows import normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.errors import AbstractPlanError, DomainError, PlanError

OUTSIDE = {
    bij.Exp(): -1.0,
    bij.Softplus(): 0.0,
    bij.Sigmoid(): 1.0,
    bij.Tanh(): -1.5,
    bij.ELU(): -1.0,
    bij.Compose([bij.Exp(), bij.Power()]): -2.0,
    bij.LeakyReLU(): float("inf"),
}


@pytest.mark.parametrize("plan", list(OUTSIDE), ids=repr)
def test_a_row_outside_the_codomain_has_no_density_and_spoils_no_gradient(plan):
    flow = dist.Flow(normal((2,)), bij.Compose([bij.AffineAutoregressive(), plan]))
    rows = flow.sample((3,))
    good = flow.log_prob(rows)
    rows[1, 0] = OUTSIDE[plan]
    rows.requires_grad_()
    log_prob = flow.log_prob(rows)
    assert log_prob[1] == -float("inf")
    assert torch.equal(log_prob[[0, 2]], good[[0, 2]])
    log_prob[[0, 2]].sum().backward()
    assert bool(rows.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters())
    with torch.no_grad():
        rows[1, 0] = float("nan")
    assert bool(flow.log_prob(rows)[1].isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("plan", [bij.Sigmoid(), bij.Tanh(), bij.ELU()], ids=repr)
def test_what_rounding_would_put_on_an_end_stays_inside(plan, dtype):
    flow = dist.Flow(normal((1,), dtype), plan)
    samples = flow.bijector.forward(torch.tensor([[-200.0], [200.0]], dtype=dtype))
    assert bool(flow.log_prob(samples).isfinite().all())


@pytest.mark.parametrize(
    ("plan", "transform"),
    [
        (bij.Exp(), torch.distributions.ExpTransform()),
        (bij.Sigmoid(), torch.distributions.SigmoidTransform()),
        (bij.Tanh(), torch.distributions.TanhTransform()),
        (bij.Softplus(), torch.distributions.SoftplusTransform()),
        (bij.AffineFixed(2.0, -3.0), torch.distributions.AffineTransform(2.0, -3.0)),
    ],
    ids=repr,
)
def test_density_is_that_of_torchs_own_transform(plan, transform):
    closed = torch.distributions.TransformedDistribution(normal((3,)), [transform])
    y = closed.sample((200,))
    torch.testing.assert_close(dist.Flow(normal((3,)), plan).log_prob(y), closed.log_prob(y), rtol=1e-9, atol=1e-9)


def test_log_slope_of_the_inverse_keeps_its_precision_beside_an_end():
    # 1 - y^2 = (1 - y)(1 + y); y is a float, so its distance to 1 is exact.
    distance = 2.0**-40
    y = torch.tensor([1.0], dtype=torch.float64) - distance
    _, log_det = bij.Tanh()(shape=torch.Size([1])).inverse_and_log_det(y)
    exact = -torch.tensor(distance * (2 - distance), dtype=torch.float64).log()
    torch.testing.assert_close(log_det, exact, rtol=1e-15, atol=1e-15)


def test_supports_follow_the_chain():
    interval = bij.Compose([bij.Sigmoid(), bij.AffineFixed(loc=10.0, scale=-2.0)])
    assert (interval.codomain.lower_bound, interval.codomain.upper_bound) == (8.0, 10.0)
    # (8, 10) is positive, so a power may follow.
    bij.Compose([interval, bij.Power(2.0)])
    flow = dist.Flow(normal((2,)), interval)
    assert flow.support.event_dim == 1
    assert not bool(flow.support.check(torch.tensor([9.0, 11.0])))
    inverted = bij.Invert(bij.Exp())
    assert inverted.domain is torch.distributions.constraints.positive
    with pytest.raises(
        DomainError,
        match=r"bijectors\[0\] \(Tanh\) gives numbers between -1 and 1.*\(Power\) only takes numbers above 0",
    ):
        bij.Compose([bij.Tanh(), bij.Power()])
    with pytest.raises(DomainError, match=r"Normal gives all real numbers.*only takes numbers above 0"):
        dist.Flow(normal((2,)), bij.Power())


@pytest.mark.parametrize("family", [bij.Bijector, bij.Elementwise, bij.Autoregressive, bij.Fixed, bij.VolumePreserving])
def test_families_cannot_be_made(family):
    with pytest.raises(AbstractPlanError, match=f"{family.__name__} names a family"):
        family()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: bij.AffineFixed(scale=0.0), "scale=0 given"),
        (lambda: bij.AffineFixed(loc=float("nan")), "loc=nan given; expected a finite number"),
        (lambda: bij.Power(exponent=0), "exponent=0 given"),
        (lambda: bij.Compose(bij.Exp()), r"single plan Exp\(\) given"),
        (lambda: bij.Invert(bij.Compose), "needs bijectors"),
        (lambda: bij.Invert(bij.Exp(shape=torch.Size([2]))), "already built for events of shape"),
    ],
)
def test_wrong_values_are_refused(make, text):
    with pytest.raises(PlanError, match=text):
        make()
