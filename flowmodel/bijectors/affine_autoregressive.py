r"""The affine autoregressive bijector, :math:`y_i = \mu_i(x_{<i}) + \sigma_i(x_{<i})\, x_i`."""

import dataclasses

import torch

from flowmodel.bijectors.affine_transformer import AffineArguments
from flowmodel.bijectors.autoregressive import Autoregressive
from flowmodel.bijectors.autoregressive_layer import (
    AutoregressiveBijector,
    build_autoregressive,
    check_autoregressive,
)
from flowmodel.parameters.base import Parameters
from flowmodel.parameters.dense_autoregressive import DenseAutoregressive


@dataclasses.dataclass(frozen=True)
class AffineAutoregressive(AffineArguments, Autoregressive):
    """Plan of an affine autoregressive bijector (Kingma et al. 2016, arXiv:1606.04934).

    Args:
        params_fn: plan of the network that gives shift and scale; ``None`` takes ``params.DenseAutoregressive()``.
        scale_fn: ``bounded`` (default), ``softplus``, ``exp`` or ``sigmoid``; see :mod:`flowmodel.bijectors.scale`.
        clamp_values: with ``log_scale_min_clip``, ``log_scale_max_clip`` and ``sigmoid_bias`` as in
            :class:`~flowmodel.bijectors.affine_transformer.AffineArguments`.

    Raises:
        PlanError: ``params_fn`` is not an autoregressive conditioner, or the scale function is unknown.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.AffineAutoregressive()(shape=torch.Size([3]))
        >>> x = torch.randn(5, 3)
        >>> torch.equal(bijector(x), x)        # an untrained layer is the identity
        True
    """

    params_fn: Parameters = dataclasses.field(default_factory=DenseAutoregressive)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params_fn", check_autoregressive("AffineAutoregressive", self.params_fn))
        self.check_affine_arguments()

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> AutoregressiveBijector:
        """The concrete layer.

        Raises:
            ShapeMismatchError: the event is a scalar, or the network too narrow for it.
        """
        return build_autoregressive(
            "AffineAutoregressive", self.params_fn, self.affine_transformer(), event_shape, context_shape
        )
