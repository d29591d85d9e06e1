"""An affine map of every scalar by two given numbers."""

import dataclasses
import math

import torch
from torch import Tensor

from flowmodel.bijectors.fixed import Fixed, FixedMap
from flowmodel.bijectors.power import check_finite
from flowmodel.errors import PlanError


@dataclasses.dataclass(frozen=True)
class AffineFixed(Fixed):
    """Plan of ``y = loc + scale * x``, the same two numbers for every dimension, not learnt.

    Args:
        loc: where 0 goes.
        scale: the slope, any number but 0; below 0 it turns the order round.

    Raises:
        PlanError: the scale is 0, or one of the two no finite number.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> plan = bij.Compose([bij.Sigmoid(), bij.AffineFixed(loc=10.0, scale=-2.0)])
        >>> plan.codomain                                       # between 8 and 10
        Interval(lower_bound=8.0, upper_bound=10.0)
    """

    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_finite("AffineFixed", "loc", self.loc)
        check_finite("AffineFixed", "scale", self.scale)
        if self.scale == 0:
            raise PlanError("AffineFixed: scale=0 given; expected any other number, for 0 maps everything to loc")

    def function(self) -> "AffineFixedMap":
        """The function of one scalar."""
        return AffineFixedMap(float(self.loc), float(self.scale))


class AffineFixedMap(FixedMap):
    """``loc + scale * x`` of one scalar."""

    loc: float
    scale: float
    log_slope: float

    def __init__(self, loc: float, scale: float) -> None:
        super().__init__(increasing=scale > 0, straight=True)
        self.loc, self.scale, self.log_slope = loc, scale, math.log(abs(scale))

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        return self.loc + self.scale * x, torch.full_like(x, self.log_slope)

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        return (y - self.loc) / self.scale, torch.full_like(y, -self.log_slope)
