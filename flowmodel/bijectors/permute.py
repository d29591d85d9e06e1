"""A fixed reordering of the dimensions, so that the next autoregressive layer meets them in another order."""

import dataclasses
import math

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Folded
from flowmodel.bijectors.domain import interval_of
from flowmodel.bijectors.volume_preserving import VolumePreserving, VolumePreservingBijector
from flowmodel.errors import ShapeMismatchError
from flowmodel.parameters.dense_autoregressive import check_permutation


@dataclasses.dataclass(frozen=True)
class Permute(VolumePreserving):
    """Plan of a permutation of the (flattened) event: ``y[i] = x[permutation[i]]``.

    Args:
        permutation: the permutation; ``None`` draws one when the plan is built (up to two dimensions: the
            reversal, since half of all draws there would change nothing). It is a buffer, hence saved with the weights.

    Raises:
        PlanError: the tuple is not a permutation.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bij.Permute((2, 0, 1))(shape=torch.Size([3]))(torch.tensor([10.0, 11.0, 12.0]))
        tensor([12., 10., 11.])
    """

    permutation: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.permutation is not None:
            object.__setattr__(self, "permutation", check_permutation("Permute", self.permutation))

    def image(self, of: Constraint) -> Constraint:
        """The same, where it is the same for every dimension."""
        return self.codomain if interval_of(of) is None else of

    def preimage(self, of: Constraint) -> Constraint:
        """The same, where it is the same for every dimension."""
        return self.image(of)

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "PermuteBijector":
        """The concrete permutation.

        Raises:
            ShapeMismatchError: the permutation is of another size than the event.
        """
        size = math.prod(event_shape)
        if self.permutation is None:
            drawn = torch.arange(size).flip(0) if size <= 2 else torch.randperm(size)
            return PermuteBijector(event_shape, context_shape, drawn)
        if len(self.permutation) != size:
            raise ShapeMismatchError(
                f"Permute: permutation of {len(self.permutation)} places given for an event of shape "
                f"{tuple(event_shape)} with {size} dimensions; give one place for each dimension"
            )
        return PermuteBijector(event_shape, context_shape, torch.tensor(self.permutation))


class PermuteBijector(VolumePreservingBijector):
    """The permutation built from :class:`Permute`; its log-determinant is 0."""

    permutation: Tensor

    def __init__(self, event_shape: torch.Size, context_shape: torch.Size | None, permutation: Tensor) -> None:
        super().__init__(event_shape, context_shape)
        self.register_buffer("permutation", permutation)

    @property
    def reads_context(self) -> bool:
        """No: a context passes it by."""
        return False

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        return x.index_select(1, self.permutation), x.new_zeros(x.shape[0])

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        return y.index_select(1, torch.argsort(self.permutation)), y.new_zeros(y.shape[0])

    def fold(self) -> Folded:
        """Both directions as index buffers."""
        return FoldedPermute(self.permutation.clone())


class FoldedPermute(Folded):
    """``index_select`` by the permutation or by its inverse."""

    permutation: Tensor
    place: Tensor

    def __init__(self, permutation: Tensor) -> None:
        super().__init__()
        self.register_buffer("permutation", permutation)
        self.register_buffer("place", torch.argsort(permutation))

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        return x.index_select(1, self.permutation), x.new_zeros([x.shape[0]])

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        return y.index_select(1, self.place), y.new_zeros([y.shape[0]])
