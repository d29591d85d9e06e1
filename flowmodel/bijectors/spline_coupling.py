"""The spline coupling bijector (neural spline flow)."""

import dataclasses

import torch

from flowmodel.bijectors.coupling_layer import Coupling, CouplingBijector
from flowmodel.bijectors.spline_transformer import SplineArguments


@dataclasses.dataclass(frozen=True)
class SplineCoupling(SplineArguments, Coupling):
    """Plan of a spline coupling bijector (Durkan et al. 2019, arXiv:1906.04032).

    Args:
        params_fn: plan of the network that gives the splines; ``None`` takes ``params.Dense()``.
        split: how many dimensions of the flattened event stay as they are and steer the others; ``None`` takes half.
        count_bins: with the other arguments as in :class:`~flowmodel.bijectors.SplineAutoregressive`.

    Raises:
        PlanError: ``params_fn`` is not ``params.Dense``, or another argument out of its range.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.SplineCoupling(order="quadratic")(shape=torch.Size([4]))
        >>> bijector.inverse(bijector.forward(torch.ones(5, 4))).shape
        torch.Size([5, 4])
    """

    def __post_init__(self) -> None:
        self.check_coupling_arguments()
        self.check_spline_arguments()

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> CouplingBijector:
        """The concrete layer.

        Raises:
            ShapeMismatchError: the event is a scalar, or has no dimension left after the split.
        """
        return self.build_coupling(self.spline_transformer(), event_shape, context_shape)
