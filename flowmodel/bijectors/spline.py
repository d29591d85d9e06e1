"""The elementwise spline bijector: one monotone rational spline for each dimension, the same for every row."""

import dataclasses

import torch

from flowmodel.bijectors.elementwise import Elementwise
from flowmodel.bijectors.elementwise_layer import ElementwiseBijector, check_unconditional
from flowmodel.bijectors.spline_transformer import SplineArguments
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.tensor import Tensor as TensorPlan


@dataclasses.dataclass(frozen=True)
class Spline(SplineArguments, Elementwise):
    """Plan of an elementwise spline bijector.

    Args:
        params_fn: ``params.Tensor()``, the learnable parameters of one spline for each dimension.
        count_bins: with the other arguments as in :class:`~flowmodel.bijectors.SplineAutoregressive`.

    Raises:
        PlanError: ``params_fn`` is another plan, or an argument out of its range.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Spline(bound=2.0)(shape=torch.Size([2]))(torch.tensor([[2.0, 7.0]])).tolist()
        [[2.0, 7.0]]
    """

    params_fn: Parameters = dataclasses.field(default_factory=TensorPlan)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params_fn", check_unconditional("Spline", self.params_fn))
        self.check_spline_arguments()

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> ElementwiseBijector:
        """The concrete layer; it takes a context and does not depend on it."""
        return ElementwiseBijector(event_shape, context_shape, self.spline_transformer(), type(self).__name__)
