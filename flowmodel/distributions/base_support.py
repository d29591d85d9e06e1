"""Whether a distribution can be the noise of a flow: what it is, and where its values lie."""

from __future__ import annotations

from torch.distributions import Distribution, constraints

from flowmodel.bijectors.domain import REALS, fits, in_words, interval_of
from flowmodel.distributions.base import name_of
from flowmodel.errors import DomainError, PlanError, ShapeMismatchError


def check_base(base_dist: object, bijector: object) -> None:
    """Raise an error unless the first is a distribution of events; the text says if the two were changed over.

    Raises:
        PlanError: it is something else, or a flow.
        ShapeMismatchError: its events hold no number.
    """
    plan = getattr(base_dist, "plan", None)
    if isinstance(base_dist, Distribution) and plan is not None:
        raise PlanError(
            "Flow: a Flow given as the base distribution; put the two plans in a row: "
            "Flow(flow.base_dist, bij.Compose([flow.plan, bijector]))"
        )
    if isinstance(base_dist, Distribution) and not base_dist.event_shape.numel():
        raise ShapeMismatchError(
            f"Flow: base distribution {name_of(base_dist)} has the event shape {tuple(base_dist.event_shape)}, which "
            "holds no number; expected every size to be at least 1"
        )
    if isinstance(base_dist, Distribution):
        return
    if isinstance(bijector, Distribution):
        raise PlanError(
            "Flow: the bijector stands first and the base distribution second; expected Flow(base_dist, bijector)"
        )
    example = "torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)"
    raise PlanError(f"Flow: base_dist={base_dist!r} given; expected a distribution of the noise, such as {example}")


def check_support(base_dist: Distribution, domain: constraints.Constraint) -> None:
    """Raise a :class:`DomainError` if the noise may lie where the bijector is not defined."""
    name = name_of(base_dist)
    try:
        support = base_dist.support
    except NotImplementedError:
        support = None
    if support is None or support is constraints.dependent:
        # Nothing is known of such a distribution; a bijector of all reals takes it at its word.
        if interval_of(domain) == REALS:
            return
        support = constraints.dependent
    if support.is_discrete:
        raise DomainError(
            f"Flow: base distribution {name} is discrete and has no density; expected a continuous one, such as Normal"
        )
    if not fits(support, domain):
        raise DomainError(
            f"Flow: base distribution {name} gives {in_words(support)}, and the bijector only takes "
            f"{in_words(domain)}; take a base distribution on these, or put a bijector that leads there first in a "
            "Compose (Exp and Softplus: to positive numbers; Sigmoid: to those between 0 and 1)"
        )
