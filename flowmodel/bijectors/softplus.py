"""The softplus function, from all real numbers to positive ones, a straight line for large ones."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.fixed import Fixed, FixedMap


@dataclasses.dataclass(frozen=True)
class Softplus(Fixed):
    r"""Plan of :math:`y_i = \log(1 + e^{x_i})`, with the inverse :math:`x_i = y_i + \log(1 - e^{-y_i})`.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Softplus()(shape=torch.Size([2]))(torch.tensor([0.0, 2.0]))
        tensor([0.6931, 2.1269])
    """

    codomain: ClassVar[Constraint] = constraints.positive

    def function(self) -> "SoftplusMap":
        """The function of one scalar."""
        return SoftplusMap(codomain=(0.0, math.inf))


class SoftplusMap(FixedMap):
    """Softplus of one scalar."""

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        # torch's softplus gives x itself above 20, where 2e-9 of it is still to be seen in float64.
        return torch.logaddexp(x, torch.zeros_like(x)), torch.nn.functional.logsigmoid(x)

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        log_slope = -torch.log(-torch.expm1(-y))
        return y - log_slope, log_slope
