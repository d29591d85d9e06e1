"""A power, from positive numbers to positive numbers."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.fixed import Fixed, FixedMap
from flowmodel.errors import PlanError


@dataclasses.dataclass(frozen=True)
class Power(Fixed):
    r"""Plan of :math:`y_i = x_i^a` for positive :math:`x_i`; put ``Exp`` or ``Softplus`` before it if noise is real.

    Args:
        exponent: a, any number but 0; below 0 it turns the order round.

    Raises:
        PlanError: the exponent is 0 or no finite number.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Power(exponent=0.5)(shape=torch.Size([2]))(torch.tensor([4.0, 9.0]))
        tensor([2., 3.])
    """

    domain: ClassVar[Constraint] = constraints.positive
    codomain: ClassVar[Constraint] = constraints.positive

    exponent: float = 2.0

    def __post_init__(self) -> None:
        check_finite("Power", "exponent", self.exponent)
        if self.exponent == 0:
            raise PlanError("Power: exponent=0 given; expected any other number, for x to the power of 0 is always 1")

    def function(self) -> "PowerMap":
        """The function of one scalar."""
        return PowerMap(float(self.exponent))


def check_finite(owner: str, name: str, value: object) -> None:
    """Raise a :class:`PlanError` unless ``value`` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PlanError(f"{owner}: {name}={value!r} given; expected a finite number, such as {name}=2.0")


class PowerMap(FixedMap):
    """A power of one scalar."""

    exponent: float
    log_factor: float

    def __init__(self, exponent: float) -> None:
        super().__init__((0.0, math.inf), (0.0, math.inf), increasing=exponent > 0, straight=exponent == 1)
        self.exponent = exponent
        self.log_factor = math.log(abs(exponent))

    def up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and logarithm of the slope."""
        return torch.pow(x, self.exponent), self.log_factor + (self.exponent - 1.0) * torch.log(x)

    def down(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse and logarithm of its slope."""
        return torch.pow(y, 1.0 / self.exponent), (1.0 / self.exponent - 1.0) * torch.log(y) - self.log_factor
