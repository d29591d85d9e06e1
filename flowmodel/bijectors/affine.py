"""The elementwise affine bijector, y = shift + scale * x, shift and scale learnt and the same for every row."""

import dataclasses

import torch

from flowmodel.bijectors.affine_transformer import AffineArguments
from flowmodel.bijectors.elementwise import Elementwise
from flowmodel.bijectors.elementwise_layer import ElementwiseBijector, check_unconditional
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.tensor import Tensor as TensorPlan


@dataclasses.dataclass(frozen=True)
class Affine(AffineArguments, Elementwise):
    """Plan of an elementwise affine bijector.

    Args:
        params_fn: ``params.Tensor()``, one learnable shift and scale for each dimension.
        scale_fn: with the other arguments as in :class:`~flowmodel.bijectors.AffineAutoregressive`.

    Raises:
        PlanError: ``params_fn`` is another plan, or the scale function is unknown.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Affine(scale_fn="sigmoid")(shape=torch.Size([2]))(torch.ones(1, 2)).tolist()
        [[0.5, 0.5]]
    """

    params_fn: Parameters = dataclasses.field(default_factory=TensorPlan)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params_fn", check_unconditional("Affine", self.params_fn))
        self.check_affine_arguments()

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> ElementwiseBijector:
        """The concrete layer; it takes a context and does not depend on it."""
        return ElementwiseBijector(event_shape, context_shape, self.affine_transformer(), type(self).__name__)
