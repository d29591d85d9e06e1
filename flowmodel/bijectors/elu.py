"""The exponential linear unit, from all real numbers to those above -1."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.fixed import Fixed, FixedMap


@dataclasses.dataclass(frozen=True)
class ELU(Fixed):
    r"""Plan of :math:`y_i = x_i` where that is positive, :math:`e^{x_i} - 1` elsewhere (arXiv:1511.07289).

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.ELU()(shape=torch.Size([2]))(torch.tensor([-1.0, 2.0]))
        tensor([-0.6321,  2.0000])
    """

    codomain: ClassVar[Constraint] = constraints.greater_than(-1.0)  # type: ignore[no-untyped-call]

    def function(self) -> "ELUMap":
        """The function of one scalar."""
        return ELUMap(codomain=(-1.0, math.inf))


class ELUMap(FixedMap):
    """ELU of one scalar."""

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        negative = x.clamp(max=0.0)
        return torch.where(x > 0.0, x, torch.expm1(negative)), negative

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        negative = torch.log1p(y.clamp(max=0.0))
        return torch.where(y > 0.0, y, negative), -negative
