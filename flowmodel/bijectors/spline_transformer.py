"""The spline transformer, and the arguments that every spline plan takes."""

import dataclasses
import math

import torch
from torch import Tensor

from flowmodel.bijectors.rational_spline import ORDERS, rational_spline, spline_parameter_count
from flowmodel.bijectors.transformer import Transformer
from flowmodel.errors import PlanError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplineArguments:
    """Arguments of the spline plans, with the names and defaults that FlowTorch gives them.

    Args:
        count_bins: number of bins, from 2 to 1000 (no bin is narrower than a thousandth of the whole).
        bound: the spline acts on [-bound, bound]; outside it is the identity.
        order: ``linear`` or ``quadratic``; see :mod:`flowmodel.bijectors.rational_spline`.

    Raises:
        PlanError: one of them is out of its range.
    """

    count_bins: int = 8
    bound: float = 3.0
    order: str = "linear"

    def check_spline_arguments(self) -> None:
        """Raise a :class:`PlanError` where an argument is out of its range."""
        owner = type(self).__name__
        if (
            isinstance(self.count_bins, bool)
            or not isinstance(self.count_bins, int)
            or not 2 <= self.count_bins <= 1000
        ):
            raise PlanError(
                f"{owner}: count_bins={self.count_bins!r} given; expected a whole number from 2 to 1000, such as 8"
            )
        if not isinstance(self.bound, int | float) or not (math.isfinite(self.bound) and self.bound > 0):
            raise PlanError(f"{owner}: bound={self.bound!r} given; expected a finite number above 0, such as 3.0")
        if self.order not in ORDERS:
            raise PlanError(f"{owner}: order={self.order!r} given; expected one of {', '.join(ORDERS)}")

    def spline_transformer(self) -> "SplineTransformer":
        """The transformer of these arguments."""
        return SplineTransformer(self.count_bins, float(self.bound), self.order)


class SplineTransformer(Transformer):
    """A monotone rational spline, the identity where all its parameters are 0.

    FlowTorch's formula gives slopes of softplus(0) + 0.001 = 0.694 at parameters of 0. Here ``slope_shift``, the number
    at which that formula gives 1, is added to the slope parameters first, so that an untrained flow equals its base and
    weight decay leads back to it. FlowTorch's weights fit once it is taken off the biases of the slope parameters.

    Args:
        count_bins: number of bins K.
        bound: the spline acts on [-bound, bound].
        order: ``linear`` or ``quadratic``.
    """

    def __init__(self, count_bins: int, bound: float, order: str) -> None:
        super().__init__(spline_parameter_count(count_bins, order))
        self.count_bins = count_bins
        self.bound = bound
        self.order = order
        self.slope_shift = math.log(math.expm1(1 - 1e-3))

    @torch.jit.export
    def push(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """``x[..., B]`` to y, and log dy/dx."""
        return rational_spline(x, params, self.count_bins, self.bound, self.order, False, self.slope_shift)

    @torch.jit.export
    def pull(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """``y[..., B]`` to x, and log dx/dy."""
        return rational_spline(y, params, self.count_bins, self.bound, self.order, True, self.slope_shift)
