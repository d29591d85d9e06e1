"""The elementwise affine bijector, y = shift + scale * x, shift and scale learnt and the same for every row."""

import dataclasses

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.bijectors.scale import SCALES, log_scale
from flowmodel.errors import PlanError
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.tensor import ParameterTensor
from flowmodel.parameters.tensor import Tensor as TensorPlan


@dataclasses.dataclass(frozen=True)
class Affine(BijectorPlan):
    """Plan of an elementwise affine bijector.

    Args:
        params_fn: ``params.Tensor()``, one learnable shift and scale for each dimension.
        scale_fn: as in :class:`~flowmodel.bijectors.AffineAutoregressive`.

    Raises:
        PlanError: ``params_fn`` is another plan, or the scale function is unknown.
    """

    params_fn: Parameters = dataclasses.field(default_factory=TensorPlan)
    scale_fn: str = "bounded"

    def __post_init__(self) -> None:
        if not isinstance(self.params_fn, TensorPlan):
            raise PlanError(f"Affine: params_fn={self.params_fn!r} given; expected params.Tensor()")
        if self.scale_fn not in SCALES:
            raise PlanError(f"Affine: scale_fn={self.scale_fn!r} given; expected one of {', '.join(SCALES)}")

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "AffineBijector":
        """The concrete layer; it takes a context and does not depend on it."""
        bijector = AffineBijector(event_shape, context_shape, self.scale_fn)
        bijector.parameters_of_dims = TensorPlan().build(bijector.event_size, 0, 2)
        return bijector


class AffineBijector(Bijector):
    """The layer built from :class:`Affine`."""

    parameters_of_dims: ParameterTensor

    def __init__(self, event_shape: torch.Size, context_shape: torch.Size | None, scale_fn: str) -> None:
        super().__init__(event_shape, context_shape)
        self.scale_fn = scale_fn

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        shift, u = self.parameters_of_dims(x).unbind(-1)
        log_sigma = log_scale(u, self.scale_fn)
        return shift + torch.exp(log_sigma) * x, log_sigma.sum(-1)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        shift, u = self.parameters_of_dims(y).unbind(-1)
        log_sigma = log_scale(u, self.scale_fn)
        return (y - shift) * torch.exp(-log_sigma), -log_sigma.sum(-1)

    def fold(self) -> Folded:
        """The layer as constants."""
        shift, u = self.parameters_of_dims.values.detach().unbind(-1)
        return FoldedAffine(shift.clone(), log_scale(u, self.scale_fn))


class FoldedAffine(Folded):
    """``shift + exp(log_sigma) * x``."""

    shift: Tensor
    log_sigma: Tensor

    def __init__(self, shift: Tensor, log_sigma: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("log_sigma", log_sigma)

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        return self.shift + torch.exp(self.log_sigma) * x, self.log_sigma.sum().expand(x.shape[0])

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        y = y.to(self.shift.dtype)
        return (y - self.shift) * torch.exp(-self.log_sigma), -self.log_sigma.sum().expand(y.shape[0])
