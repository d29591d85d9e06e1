"""Where a bijector may be applied: torch's constraints seen as intervals, the same for every scalar of an event."""

from __future__ import annotations

import math

from torch.distributions import constraints
from torch.distributions.constraints import Constraint

Interval = tuple[float, float]

REALS: Interval = (-math.inf, math.inf)


def interval_of(constraint: Constraint) -> Interval | None:
    """The interval that every scalar of a value lies in, or ``None`` where the constraint is not of that kind.

    End points are left out of account: they have no probability, and torch writes the support of a gamma distribution
    with them and the codomain of ``exp`` without.

    Example:
        >>> from torch.distributions import constraints
        >>> interval_of(constraints.independent(constraints.positive, 1)), interval_of(constraints.simplex)
        ((0.0, inf), None)
    """
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if isinstance(constraint, constraints.MixtureSameFamilyConstraint):
        return interval_of(constraint.base_constraint)
    # A copied or unpickled constraint is another object.
    if type(constraint) is type(constraints.real):
        return REALS
    low, high = getattr(constraint, "lower_bound", -math.inf), getattr(constraint, "upper_bound", math.inf)
    bounds = (constraints.greater_than, constraints.greater_than_eq, constraints.less_than)
    if constraint.is_discrete or not isinstance(
        constraint, (*bounds, constraints.interval, constraints.half_open_interval)
    ):
        return None
    # The bounds of a distribution's support are tensors; the widest of a batch holds for all.
    return float(low.min() if hasattr(low, "min") else low), float(high.max() if hasattr(high, "max") else high)


def constraint_of(interval: Interval) -> Constraint:
    """The constraint of one scalar in an interval, as plain as torch knows it."""
    low, high = interval
    if interval == REALS:
        return constraints.real
    if interval == (0.0, math.inf):
        return constraints.positive
    if high == math.inf:
        return constraints.greater_than(low)  # type: ignore[no-untyped-call]
    return constraints.less_than(high) if low == -math.inf else constraints.interval(low, high)  # type: ignore[no-untyped-call]


def point_inside(interval: Interval) -> float:
    """A number well inside an interval: 0 of all reals, else 1 from its only end or midway between its two."""
    low, high = interval
    if math.isinf(low):
        return 0.0 if math.isinf(high) else high - 1.0
    return low + 1.0 if math.isinf(high) else (low + high) / 2


def over_event(constraint: Constraint, event_dims: int) -> Constraint:
    """The constraint on each scalar, made one on a whole event of ``event_dims`` dimensions.

    Example:
        >>> from torch.distributions import constraints
        >>> over_event(constraints.positive, 2).event_dim
        2
    """
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    missing = event_dims - constraint.event_dim
    return constraints.independent(constraint, missing) if missing > 0 else constraint  # type: ignore[no-untyped-call]


def fits(inner: Constraint, outer: Constraint) -> bool:
    """Whether what meets ``inner`` is known to meet ``outer``, end points aside."""
    inside, outside = interval_of(inner), interval_of(outer)
    if inside is None or outside is None:
        return inner is outer
    return outside[0] <= inside[0] and inside[1] <= outside[1]


def in_words(constraint: Constraint) -> str:
    """A constraint for an error's text.

    Example:
        >>> from torch.distributions import constraints
        >>> in_words(constraints.real), in_words(constraints.positive), in_words(constraints.interval(-1, 1))
        ('all real numbers', 'numbers above 0', 'numbers between -1 and 1')
    """
    interval = interval_of(constraint)
    if interval is None:
        return f"values that meet {constraint}"
    low, high = interval
    if interval == REALS:
        return "all real numbers"
    if high == math.inf:
        return f"numbers above {low:g}"
    return f"numbers below {high:g}" if low == -math.inf else f"numbers between {low:g} and {high:g}"
