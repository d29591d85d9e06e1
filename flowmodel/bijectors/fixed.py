r"""The family of elementwise bijectors without parameters to learn.

Each is one strictly monotone function of one scalar, :math:`y_i = f(x_i)`, written once: a :class:`FixedMap` gives the
function, its inverse and the logarithm of their slopes, and serves the eager module and the exported one alike.

What lies outside an interval (its end points, and infinity, are outside) is mapped to something finite with the
log-determinant -inf, so its density is exactly 0. What is inside stays inside: where rounding would put a value on a
finite end point of the interval, it goes to the nearest floating-point number within.
"""

import abc
import copy
import dataclasses
import math

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Bijector, Folded
from flowmodel.bijectors.domain import REALS, Interval, constraint_of, interval_of, over_event, point_inside
from flowmodel.bijectors.elementwise import Elementwise


class FixedMap(Folded):
    """One function of one scalar, in both directions, eager and in TorchScript.

    Args:
        domain: the open interval that x lies in.
        codomain: the open interval that y lies in.
        increasing: whether y grows with x.
        straight: whether the slope is the same everywhere.
    """

    x_low: float
    x_high: float
    x_inside: float
    y_low: float
    y_high: float
    y_inside: float

    def __init__(
        self,
        domain: Interval = REALS,
        codomain: Interval = REALS,
        *,
        increasing: bool = True,
        straight: bool = False,
    ) -> None:
        super().__init__()
        self.x_low, self.x_high, self.x_inside = *domain, point_inside(domain)
        self.y_low, self.y_high, self.y_inside = *codomain, point_inside(codomain)
        self.increasing = increasing
        self.straight = straight

    @abc.abstractmethod
    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``f(x)`` and ``log |f'(x)|``, elementwise."""

    @abc.abstractmethod
    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``f`` at ``y`` and the logarithm of its slope there, elementwise."""

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        outside = (x <= self.x_low) | (x >= self.x_high)
        y, log_slope = self.up(x.masked_fill(outside, self.x_inside))
        log_det = log_slope.sum(-1).masked_fill(outside.any(-1), -math.inf)
        return within(y, self.y_low, self.y_high), log_det

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        outside = (y <= self.y_low) | (y >= self.y_high)
        x, log_slope = self.down(y.masked_fill(outside, self.y_inside))
        log_det = log_slope.sum(-1).masked_fill(outside.any(-1), -math.inf)
        return within(x, self.x_low, self.x_high), log_det


def within(value: Tensor, low: float, high: float) -> Tensor:
    """Values that rounding put on or past a finite end of an open interval, moved to the nearest number inside."""
    if low > -math.inf:
        # The spacing of numbers beside 0 would be a denormal one, which some processors flush to 0.
        first = torch.nextafter(torch.full_like(value, low), torch.full_like(value, math.inf))
        value = torch.maximum(value, first if low != 0.0 else torch.full_like(value, _smallest(value)))
    if high < math.inf:
        last = torch.nextafter(torch.full_like(value, high), torch.full_like(value, -math.inf))
        value = torch.minimum(value, last if high != 0.0 else torch.full_like(value, -_smallest(value)))
    return value


def _smallest(value: Tensor) -> float:
    # torch.finfo is not to be had in TorchScript.
    return 2.2250738585072014e-308 if value.dtype == torch.float64 else 1.1754943508222875e-38


@dataclasses.dataclass(frozen=True)
class Fixed(Elementwise):
    """Family of elementwise bijectors without parameters to learn."""

    @abc.abstractmethod
    def function(self) -> FixedMap:
        """The function of one scalar."""

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "FixedBijector":
        """The concrete map; it takes a context and does not depend on it."""
        return FixedBijector(event_shape, context_shape, self)

    def image(self, of: Constraint) -> Constraint:
        """The function of the interval's ends."""
        return self._mapped(of, self.domain, self.codomain, up=True)

    def preimage(self, of: Constraint) -> Constraint:
        """The inverse of the interval's ends."""
        return self._mapped(of, self.codomain, self.domain, up=False)

    def _mapped(self, of: Constraint, given: Constraint, whole: Constraint, *, up: bool) -> Constraint:
        interval, source, target = interval_of(of), interval_of(given), interval_of(whole)
        if interval is None or source is None or target is None:
            return whole
        function = self.function()
        ends = list(target) if function.increasing else [target[1], target[0]]
        for place in (0, 1):
            # An end of the whole interval belongs to an end of the other exactly; only ends within are computed.
            if source[0] < interval[place] < source[1]:
                at = torch.tensor(interval[place], dtype=torch.float64)
                ends[place] = float((function.up(at) if up else function.down(at))[0])
        return constraint_of((min(ends), max(ends)))


class FixedBijector(Bijector):
    """The map built from a plan of the family :class:`Fixed`."""

    def __init__(self, event_shape: torch.Size, context_shape: torch.Size | None, plan: Fixed) -> None:
        super().__init__(event_shape, context_shape)
        self.plan_name = type(plan).__name__
        self.function = plan.function()
        self._domain, self._codomain = plan.domain, plan.codomain

    @property
    def domain(self) -> Constraint:
        """What one event of noise may be."""
        return over_event(self._domain, len(self.event_shape))

    @property
    def codomain(self) -> Constraint:
        """What one event of data may be."""
        return over_event(self._codomain, len(self.event_shape))

    @property
    def constant_log_det(self) -> bool:
        """Whether the function is a straight line."""
        return self.function.straight

    @property
    def reads_context(self) -> bool:
        """No: a context passes it by."""
        return False

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        return self.function.push(x, context)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        return self.function.pull(y, context)

    def fold(self) -> Folded:
        """The function itself, copied."""
        return copy.deepcopy(self.function)
