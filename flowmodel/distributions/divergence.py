"""Kullback-Leibler divergence between two flows, where it has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from flowmodel.distributions.flow import Flow
from flowmodel.errors import NoClosedFormError


@register_kl(Flow, Flow)  # type: ignore[no-untyped-call, untyped-decorator]
def kl_of_flows(p: Flow, q: Flow) -> Tensor:
    r"""``torch.distributions.kl_divergence(p, q)`` of two flows through the same bijector: that of their bases.

    .. math:: \int p(y) \log\frac{p(y)}{q(y)}\, dy = \int p_0(x) \log\frac{p_0(x)}{q_0(x)}\, dx
        \quad\text{for } y = g(x) \text{ in both,}

    since the Jacobian of a common g cancels. The same bijector means the same plan with equal weights and contexts.

    Raises:
        NoClosedFormError: the bijectors differ, or columns of whole numbers, to which samples are rounded, tell more
            than the divergence of the continuous densities.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> from torch.distributions import Independent, Normal, kl_divergence
        >>> bases = (Independent(Normal(torch.full((2,), mean), torch.ones(2)), 1) for mean in (0.0, 1.0))
        >>> kl_divergence(*(dist.Flow(base, bij.Exp()) for base in bases))
        tensor(1.)
    """
    estimate = "estimate it: y = p.sample((10_000,)); (p.log_prob(y) - q.log_prob(y)).mean(0)"
    if not _same_bijector(p, q):
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
