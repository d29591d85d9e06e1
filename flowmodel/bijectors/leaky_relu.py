"""The leaky rectifier: two straight lines that meet in 0."""

import dataclasses

import torch
from torch import Tensor

from flowmodel.bijectors.fixed import Fixed, FixedMap


@dataclasses.dataclass(frozen=True)
class LeakyReLU(Fixed):
    r"""Plan of :math:`y_i = x_i` where that is positive, :math:`x_i / 100` elsewhere.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.LeakyReLU()(shape=torch.Size([2]))(torch.tensor([-1.0, 2.0]))
        tensor([-0.0100,  2.0000])
    """

    def function(self) -> "LeakyReLUMap":
        """The function of one scalar."""
        return LeakyReLUMap()


class LeakyReLUMap(FixedMap):
    """LeakyReLU of one scalar."""

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        # -4.605170185988091 is the logarithm of the slope 1/100.
        return torch.where(x >= 0.0, x, x * 0.01), (x < 0.0).to(x.dtype) * -4.605170185988091

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        return torch.where(y >= 0.0, y, y / 0.01), (y < 0.0).to(y.dtype) * 4.605170185988091
