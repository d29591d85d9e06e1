"""The affine transformer, y = shift + sigma(u) x, and the arguments that every affine plan takes."""

import dataclasses
import math

import torch
from torch import Tensor

from flowmodel.bijectors.scale import SCALES, log_scale, log_scale_slope
from flowmodel.bijectors.transformer import Derivatives, Transformer
from flowmodel.errors import PlanError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffineArguments:
    """Arguments of the affine plans, with the names, defaults and meaning that FlowTorch gives them.

    Args:
        scale_fn: ``bounded`` (default), ``softplus``, ``exp`` or ``sigmoid``; see :mod:`flowmodel.bijectors.scale`.
        clamp_values: clamp the network's output u to the two limits below before the scale function. The gradient
            passes as if nothing had been clamped, so that a clamped unit can come back.
        log_scale_min_clip: the lower limit of u.
        log_scale_max_clip: the upper limit of u.
        sigmoid_bias: taken for the sake of programs written for FlowTorch, whose formulas do not use it either.

    Raises:
        PlanError: the scale function is unknown, or the limits are not in order.
    """

    scale_fn: str = "bounded"
    clamp_values: bool = False
    log_scale_min_clip: float = -5.0
    log_scale_max_clip: float = 3.0
    sigmoid_bias: float = 2.0

    def check_affine_arguments(self) -> None:
        """Raise a :class:`PlanError` where an argument makes no sense."""
        owner = type(self).__name__
        if self.scale_fn not in SCALES:
            raise PlanError(f"{owner}: scale_fn={self.scale_fn!r} given; expected one of {', '.join(SCALES)}")
        if not isinstance(self.clamp_values, bool):
            raise PlanError(f"{owner}: clamp_values={self.clamp_values!r} given; expected True or False")
        low, high = self.log_scale_min_clip, self.log_scale_max_clip
        numbers = all(isinstance(limit, int | float) and math.isfinite(limit) for limit in (low, high))
        if not (numbers and low < high):
            raise PlanError(
                f"{owner}: log_scale_min_clip={low!r} and log_scale_max_clip={high!r} given; expected two finite "
                "numbers, the first below the second, such as -5.0 and 3.0"
            )

    def affine_transformer(self) -> "AffineTransformer":
        """The transformer of these arguments."""
        return AffineTransformer(
            self.scale_fn, self.clamp_values, float(self.log_scale_min_clip), float(self.log_scale_max_clip)
        )


class AffineTransformer(Transformer):
    """y = shift + sigma(u) x; the parameters are shift and u.

    Args:
        scale_fn: name of the scale function.
        clamp_values: whether u is clamped.
        low: the lower limit of u.
        high: the upper limit of u.
    """

    def __init__(self, scale_fn: str, clamp_values: bool = False, low: float = -5.0, high: float = 3.0) -> None:
        super().__init__(2)
        self.scale_fn = scale_fn
        self.clamp_values = clamp_values
        self.low = low
        self.high = high

    @property
    def constant_log_slope(self) -> bool:
        """An affine map has the same slope everywhere."""
        return True

    @torch.jit.export
    def push(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """``x[..., B]`` to y, and log dy/dx."""
        log_sigma = log_scale(self._clamped(params.select(-2, 1)), self.scale_fn)
        return params.select(-2, 0) + torch.exp(log_sigma) * x, log_sigma

    @torch.jit.export
    def pull(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """``y[..., B]`` to x, and log dx/dy."""
        minus_log_sigma = -log_scale(self._clamped(params.select(-2, 1)), self.scale_fn)
        return (y - params.select(-2, 0)) * torch.exp(minus_log_sigma), minus_log_sigma

    def derivatives(self, x: Tensor, params: Tensor) -> Derivatives:
        """The derivatives in closed form."""
        u = self._clamped(params.select(-2, 1))
        log_sigma, slope = log_scale(u, self.scale_fn), log_scale_slope(u, self.scale_fn)
        zeros = torch.zeros_like(x)
        value_params = torch.stack([torch.ones_like(x), torch.exp(log_sigma) * x * slope], -2)
        return Derivatives(log_sigma, zeros, value_params, torch.stack([zeros, slope], -2))

    def _clamped(self, u: Tensor) -> Tensor:
        if self.clamp_values:
            return u + (u.clamp(self.low, self.high) - u).detach()
        return u
