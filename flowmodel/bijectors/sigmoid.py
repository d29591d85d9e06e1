"""The logistic function, from all real numbers to those between 0 and 1."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.fixed import Fixed, FixedMap


@dataclasses.dataclass(frozen=True)
class Sigmoid(Fixed):
    r"""Plan of :math:`y_i = 1 / (1 + e^{-x_i})`, its slope :math:`y_i (1 - y_i)` exact in both tails.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Sigmoid()(shape=torch.Size([2]))(torch.tensor([0.0, 2.0]))
        tensor([0.5000, 0.8808])
    """

    codomain: ClassVar[Constraint] = constraints.unit_interval

    def function(self) -> "SigmoidMap":
        """The function of one scalar."""
        return SigmoidMap(codomain=(0.0, 1.0))


class SigmoidMap(FixedMap):
    """Sigmoid of one scalar."""

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        steep = -x.abs()
        return torch.sigmoid(x), steep - 2 * torch.log1p(torch.exp(steep))

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        log_y, log_rest = torch.log(y), torch.log1p(-y)
        return log_y - log_rest, -log_y - log_rest
