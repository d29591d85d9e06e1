"""The hyperbolic tangent, from all real numbers to those between -1 and 1."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.fixed import Fixed, FixedMap


@dataclasses.dataclass(frozen=True)
class Tanh(Fixed):
    r"""Plan of :math:`y_i = \tanh x_i`, its slope :math:`1 - y_i^2` computed without cancellation in both tails.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Tanh()(shape=torch.Size([2]))(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.7616])
    """

    codomain: ClassVar[Constraint] = constraints.interval(-1.0, 1.0)  # type: ignore[no-untyped-call]

    def function(self) -> "TanhMap":
        """The function of one scalar."""
        return TanhMap(codomain=(-1.0, 1.0))


class TanhMap(FixedMap):
    """Tanh of one scalar."""

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        steep = -2 * x.abs()
        # 1 - tanh(x)^2 = 4 e^(-2|x|) / (1 + e^(-2|x|))^2; 1.3862943611198906 is log 4.
        return torch.tanh(x), 1.3862943611198906 + steep - 2 * torch.log1p(torch.exp(steep))

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        above, below = torch.log1p(y), torch.log1p(-y)
        return 0.5 * (above - below), -above - below
