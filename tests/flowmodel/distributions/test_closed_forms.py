"""Conditioning, expansion, entropy, divergence and Neal's funnel, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from flows import normal, trained_flow
from torch.distributions import Independent, Normal, StudentT, kl_divergence

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.errors import DomainError, NoClosedFormError, PlanError, ShapeMismatchError


def test_conditioning_gives_a_flow_of_its_own_over_the_same_weights():
    flow = trained_flow(bij.AffineAutoregressive(), (2,), (3,))
    contexts = torch.randn(5, 3, dtype=torch.float64)
    one, other = flow.condition(contexts), flow.condition(contexts[0])
    y = torch.randn(7, 5, 2, dtype=torch.float64)
    assert one.batch_shape == (5,)
    assert other.batch_shape == flow.batch_shape == ()
    assert flow.conditioned_on is None
    assert one.sample((7,)).shape == (7, 5, 2)
    assert torch.equal(one.log_prob(y), flow.log_prob(y, contexts))
    assert torch.equal(other.log_prob(y), flow.log_prob(y, contexts[0]))
    assert torch.equal(one.normalize(y), flow.bijector.inverse(y, flow.standard_context(contexts)))
    assert not one.normalize(y).requires_grad
    assert one.rnormalize(y).requires_grad
    assert one.bijector is flow.bijector
    with pytest.raises(ShapeMismatchError, match="built without one"):
        dist.Flow(normal((2,)), bij.Exp()).condition(contexts)


def test_expansion_shares_the_weights():
    flow = trained_flow(bij.Affine(), (2,))
    wide = flow.expand((4, 3))
    assert wide.batch_shape == (4, 3)
    assert wide.sample((2,)).shape == (2, 4, 3, 2)
    y = torch.randn(2, dtype=torch.float64)
    assert torch.equal(wide.log_prob(y), flow.log_prob(y).expand(4, 3))
    with pytest.raises(ShapeMismatchError, match="does not broadcast against the batch shape"):
        wide.expand((5,))


def test_entropy_is_that_of_the_scaled_normal_and_refused_elsewhere():
    plan = bij.Compose([bij.Permute(), bij.AffineFixed(1.0, -2.0), bij.Invert(bij.AffineFixed(0.0, 5.0))])
    closed = Independent(Normal(torch.zeros(3).double(), torch.full((3,), 0.4, dtype=torch.float64)), 1)
    torch.testing.assert_close(dist.Flow(normal((3,)), plan).entropy(), closed.entropy(), rtol=1e-12, atol=1e-12)
    with pytest.raises(NoClosedFormError, match="estimate it by -flow"):
        dist.Flow(normal((3,)), bij.AffineAutoregressive()).entropy()
    with pytest.raises(NoClosedFormError, match="the mean has no closed form"):
        _ = dist.Flow(normal((3,)), bij.Exp()).mean


def test_divergence_through_the_same_bijector_is_that_of_the_bases():
    one, other = normal((2,)), Independent(Normal(torch.ones(2).double(), 2 * torch.ones(2).double()), 1)
    p, q = dist.Flow(one, bij.AffineAutoregressive()), dist.Flow(other, bij.AffineAutoregressive())
    q.bijector.load_state_dict(p.bijector.state_dict())
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(one, other))
    with torch.no_grad():
        next(q.bijector.parameters()).add_(1.0)
    with pytest.raises(NoClosedFormError, match="different bijectors"):
        kl_divergence(p, q)
    third = dist.Flow(Independent(StudentT(torch.full((2,), 5.0).double()), 1), bij.Exp())
    with pytest.raises(NoClosedFormError, match="torch knows no divergence"):
        kl_divergence(third, dist.Flow(one, bij.Exp()))


def test_divergence_of_affine_chains_is_that_of_the_normals_they_give():
    chain = bij.Compose(
        [bij.Affine(), bij.Permute((2, 0, 1)), bij.Invert(bij.AffineFixed(1.0, -4.0)), bij.Standardize()]
    )
    wide = Independent(Normal(torch.arange(3).double(), torch.arange(1, 4).double()), 1)
    p, q = trained_flow(chain, (3,)), dist.Flow(wide, bij.Compose([bij.AffineFixed(5.0, 2.0), bij.Affine()]))
    given = []
    for flow in (p, q):
        rows = flow.rsample((400_000,)).detach()
        given.append(Independent(Normal(rows.mean(0), rows.std(0)), 1))
    torch.testing.assert_close(kl_divergence(p, q).detach(), kl_divergence(*given), rtol=2e-2, atol=0)
    # Exactly, against a density that is known.
    line = dist.Flow(wide, bij.AffineFixed(5.0, -2.0))
    closed = Independent(Normal(5 - 2 * torch.arange(3).double(), 2 * torch.arange(1, 4).double()), 1)
    standard = dist.Flow(normal((3,)), bij.Affine())
    torch.testing.assert_close(kl_divergence(line, standard), kl_divergence(closed, normal((3,))), rtol=1e-12, atol=0)
    torch.testing.assert_close(kl_divergence(standard, line), kl_divergence(normal((3,)), closed), rtol=1e-12, atol=0)
    # It teaches: the gradient is that of the closed form.
    loss = kl_divergence(standard, line)
    (slope,) = torch.autograd.grad(loss, standard.bijector.parameters_of_dims.values)
    torch.testing.assert_close(slope[:, 0], -closed.mean / closed.variance, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("plan", "base"),
    [
        (bij.Exp(), normal((2,))),
        (bij.AffineAutoregressive(), normal((2,))),
        (bij.Compose([bij.Affine(), bij.Supports(bij.Integer())]), normal((2,))),
        (bij.Affine(), Independent(StudentT(torch.full((2,), 5.0).double()), 1)),
    ],
)
def test_divergence_from_what_is_no_normal_is_refused(plan, base):
    with pytest.raises(NoClosedFormError, match=r"estimate it: y = p\.sample"):
        kl_divergence(dist.Flow(base, plan), dist.Flow(normal((2,)), bij.AffineFixed(1.0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neals_funnel_is_two_normals(dtype):
    funnel = dist.NealsFunnel(dtype=dtype).expand((3,))
    value = funnel.rsample((50,))
    assert value.shape == (50, 3, 2)
    assert value.dtype == dtype
    x, y = value.unbind(-1)
    closed = Normal(torch.zeros((), dtype=dtype), 3.0).log_prob(y) + Normal(
        torch.zeros_like(y), (y / 2).exp()
    ).log_prob(x)
    torch.testing.assert_close(
        funnel.log_prob(value), closed, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-5
    )
    assert abs(float(funnel.entropy()[0]) - math.log(2 * math.pi * math.e * 3)) < 1e-5
    with pytest.raises(ShapeMismatchError, match=r"expected it to end in \(2,\)"):
        funnel.log_prob(torch.zeros(4, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: dist.Flow(normal((2,))), TypeError, "bijector"),
        (lambda: dist.Flow(bij.Exp(), normal((2,))), PlanError, "bijector stands first"),
        (lambda: dist.Flow(3, bij.Exp()), PlanError, "base_dist=3 given; expected a distribution"),
        (lambda: dist.Flow(normal((2,)), bij.Exp()(shape=torch.Size([2]))), PlanError, "already built"),
        (lambda: dist.Flow(normal((2,)), bij.Affine(), context_shape=3), PlanError, r"in a tuple, as \(3,\)"),
        (lambda: dist.Flow(torch.distributions.Poisson(torch.ones(2)), bij.Exp()), DomainError, "is discrete"),
        (lambda: dist.Flow(torch.distributions.Dirichlet(torch.ones(2)), bij.Exp()), DomainError, "gives values that"),
    ],
)
def test_mistakes_are_refused_when_the_flow_is_made(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_class_stands_for_its_plan_and_validation_is_as_in_torch():
    assert isinstance(dist.Flow(normal((2,)), bij.AffineAutoregressive).plan, bij.AffineAutoregressive)
    strict = dist.Flow(normal((2,)), bij.Exp(), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        strict.log_prob(torch.tensor([[1.0, -1.0]], dtype=torch.float64))
