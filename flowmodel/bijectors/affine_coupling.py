"""The affine coupling bijector (Real NVP)."""

import dataclasses

import torch

from flowmodel.bijectors.affine_transformer import AffineArguments
from flowmodel.bijectors.coupling_layer import Coupling, CouplingBijector


@dataclasses.dataclass(frozen=True)
class AffineCoupling(AffineArguments, Coupling):
    """Plan of an affine coupling bijector (Dinh et al. 2017, arXiv:1605.08803).

    Args:
        params_fn: plan of the network that gives shift and scale; ``None`` takes ``params.Dense()``.
        split: how many dimensions of the flattened event stay as they are and steer the others; ``None`` takes half.
        scale_fn: with the other arguments as in :class:`~flowmodel.bijectors.AffineAutoregressive`.

    Raises:
        PlanError: ``params_fn`` is not ``params.Dense``, or another argument out of its range.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> layers = [bij.AffineCoupling(), bij.Permute((2, 1, 0)), bij.AffineCoupling()]
        >>> bijector = bij.Compose(layers)(shape=torch.Size([3]))
        >>> bijector.inverse(bijector.forward(torch.ones(5, 3))).shape
        torch.Size([5, 3])
    """

    def __post_init__(self) -> None:
        self.check_coupling_arguments()
        self.check_affine_arguments()

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> CouplingBijector:
        """The concrete layer.

        Raises:
            ShapeMismatchError: the event is a scalar, or has no dimension left after the split.
        """
        return self.build_coupling(self.affine_transformer(), event_shape, context_shape)
