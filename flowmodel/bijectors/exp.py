"""The exponential function, from all real numbers to positive ones."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.fixed import Fixed, FixedMap


@dataclasses.dataclass(frozen=True)
class Exp(Fixed):
    r"""Plan of :math:`y_i = e^{x_i}`: data are positive, their logarithms what the part before it gives.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Exp()(shape=torch.Size([2]))(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 2.7183])
    """

    codomain: ClassVar[Constraint] = constraints.positive

    def function(self) -> "ExpMap":
        """The function of one scalar."""
        return ExpMap(codomain=(0.0, math.inf))


class ExpMap(FixedMap):
    """Exp of one scalar."""

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        return torch.exp(x), x

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        x = torch.log(y)
        return x, -x
