r"""The spline autoregressive bijector: a monotone rational spline whose parameters read the dimensions before."""

import dataclasses

import torch

from flowmodel.bijectors.autoregressive import Autoregressive
from flowmodel.bijectors.autoregressive_layer import (
    AutoregressiveBijector,
    build_autoregressive,
    check_autoregressive,
)
from flowmodel.bijectors.spline_transformer import SplineArguments
from flowmodel.errors import PlanError
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.dense_autoregressive import DenseAutoregressive


@dataclasses.dataclass(frozen=True)
class SplineAutoregressive(SplineArguments, Autoregressive):
    """Plan of a spline autoregressive bijector (Durkan et al. 2019, arXiv:1906.04032).

    Args:
        params_fn: plan of the network that gives the splines; ``None`` takes ``params.DenseAutoregressive()``.
        count_bins: number of bins of each spline.
        bound: the splines act on [-bound, bound]; outside they are the identity.
        order: ``linear`` (default) or ``quadratic``; see :mod:`flowmodel.bijectors.rational_spline`.

    Raises:
        PlanError: ``params_fn`` is not an autoregressive conditioner, or another argument out of its range.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.SplineAutoregressive(count_bins=4)(shape=torch.Size([3]))
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(bijector(x), x, atol=1e-5)        # an untrained layer is the identity
        True
    """

    params_fn: Parameters = dataclasses.field(default_factory=DenseAutoregressive)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params_fn", check_autoregressive("SplineAutoregressive", self.params_fn))
        if self.params_fn.skip_connections == "fitted":  # type: ignore[attr-defined]
            raise PlanError(
                "SplineAutoregressive: skip_connections='fitted' given, and a spline has no shift; give True or False"
            )
        self.check_spline_arguments()

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> AutoregressiveBijector:
        """The concrete layer.

        Raises:
            ShapeMismatchError: the event is a scalar, or the network too narrow for it.
        """
        return build_autoregressive(
            "SplineAutoregressive", self.params_fn, self.spline_transformer(), event_shape, context_shape
        )
