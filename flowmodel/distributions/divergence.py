"""Kullback-Leibler divergence between two flows, where it has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence, register_kl

from flowmodel.bijectors.base import Bijector
from flowmodel.bijectors.compose import ComposeBijector
from flowmodel.bijectors.elementwise_layer import ElementwiseBijector
from flowmodel.bijectors.fixed import FixedBijector
from flowmodel.bijectors.invert import InvertBijector
from flowmodel.bijectors.permute import PermuteBijector
from flowmodel.bijectors.standardize import StandardizeBijector
from flowmodel.bijectors.supports import SupportsBijector
from flowmodel.distributions.flow import Flow
from flowmodel.errors import NoClosedFormError


@register_kl(Flow, Flow)  # type: ignore[no-untyped-call, untyped-decorator]
def kl_of_flows(p: Flow, q: Flow) -> Tensor:
    r"""``torch.distributions.kl_divergence(p, q)``, in nats, of two flows through the same bijector, or of two normals.

    Through the same bijector it is that of the bases:

    .. math:: \int p(y) \log\frac{p(y)}{q(y)}\, dy = \int p_0(x) \log\frac{p_0(x)}{q_0(x)}\, dx
        \quad\text{for } y = g(x) \text{ in both,}

    since the Jacobian of a common g cancels. The same bijector means the same plan with equal weights and contexts. And
    where both flows shift, scale and permute (``Affine``, ``AffineFixed``, ``Permute``, ``Standardize``, in a row or
    inverted) independent normals, what they give are independent normals again.

    Raises:
        NoClosedFormError: neither is so, or columns of whole numbers, to which samples are rounded, tell more
            than the divergence of the continuous densities.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> from torch.distributions import Independent, Normal, kl_divergence
        >>> bases = (Independent(Normal(torch.full((2,), mean), torch.ones(2)), 1) for mean in (0.0, 1.0))
        >>> kl_divergence(*(dist.Flow(base, bij.Exp()) for base in bases))
        tensor(1.)
        >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> kl_divergence(dist.Flow(base, bij.AffineFixed(3.0)), dist.Flow(base, bij.Permute()))
        tensor(9.)
    """
    estimate = "estimate it: y = p.sample((10_000,)); (p.log_prob(y) - q.log_prob(y)).mean(0)"
    if not _same_bijector(p, q):
        normals = _as_normal(p), _as_normal(q)
        if normals[0] is not None and normals[1] is not None and p.event_shape == q.event_shape:
            return kl_divergence(normals[0], normals[1])
        raise NoClosedFormError(
            f"no closed form of the divergence between flows of different bijectors, weights or contexts; {estimate}"
        )
    if p.whole_columns:
        raise NoClosedFormError(f"no closed form of the divergence between flows of whole numbers; {estimate}")
    try:
        return kl_divergence(p.base_dist, q.base_dist)
    except NotImplementedError:
        names = f"{type(p.base_dist).__name__} and {type(q.base_dist).__name__}"
        raise NoClosedFormError(
            f"torch knows no divergence between the base distributions {names}; {estimate}"
        ) from None


_AFFINE = (ElementwiseBijector, FixedBijector, PermuteBijector, StandardizeBijector, SupportsBijector)
"""Maps of single scalars and permutations, affine where the log-determinant is constant."""


def _as_normal(flow: Flow) -> Distribution | None:
    """The independent normals that a flow stands for, if it does."""
    parts = [part for part in flow.bijector.modules() if isinstance(part, Bijector)]
    chains = (ComposeBijector, InvertBijector)
    known = all(isinstance(part, (*_AFFINE, *chains)) for part in parts)
    if not (known and flow.bijector.constant_log_det) or flow.base.family != "Normal" or flow.whole_columns:
        return None
    base = flow.base_dist
    shape = base.batch_shape + base.event_shape
    loc, scale = (value.reshape(-1, flow.bijector.event_size) for value in (base.mean, base.stddev))
    # The tangent at any point is the scale, with none of its digits lost to the location.
    given = torch.func.jvp(lambda x: flow.bijector.push(x, None)[0], (loc,), (scale,))
    return Independent(Normal(given[0].reshape(shape), given[1].abs().reshape(shape)), len(base.event_shape))


def _same_bijector(p: Flow, q: Flow) -> bool:
    if p.event_shape != q.event_shape or not _equal(p.conditioned_on, q.conditioned_on):
        return False
    if p.bijector is q.bijector:
        return True
    if p.plan != q.plan or p.context_shape != q.context_shape:
        return False
    ours, theirs = p.state_dict(), q.state_dict()
    names = [name for name in ours if not name.startswith("base.")]
    return names == [name for name in theirs if not name.startswith("base.")] and all(
        _equal(ours[name], theirs[name]) for name in names
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
