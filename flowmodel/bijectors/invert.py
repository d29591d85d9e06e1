"""The inverse of another bijector, as a bijector."""

import dataclasses

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.errors import PlanError


@dataclasses.dataclass(frozen=True)
class Invert(BijectorPlan):
    """Plan of the inverse of ``bijector``: its forward is the other's inverse, log-determinants with it.

    ``Invert(AffineAutoregressive())`` is masked autoregressive flow: the density, and so each training step, is one
    dense pass, and sampling goes one degree at a time.

    Raises:
        PlanError: ``bijector`` is not the plan of a bijector.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.Invert(bij.AffineAutoregressive())(shape=torch.Size([2]))
        >>> bijector.inverse(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """

    bijector: BijectorPlan

    def __post_init__(self) -> None:
        if not isinstance(self.bijector, BijectorPlan):
            raise PlanError(
                f"Invert: {self.bijector!r} given; expected the plan of a bijector, such as bij.AffineAutoregressive()"
            )

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "InvertBijector":
        """The concrete inverse."""
        return InvertBijector(self.bijector.build(event_shape, context_shape))


class InvertBijector(Bijector):
    """The map built from :class:`Invert`."""

    def __init__(self, inner: Bijector) -> None:
        super().__init__(inner.event_shape, inner.context_shape)
        self.inner = inner

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, by the inner inverse."""
        return self.inner.pull(x, context)

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, by the inner forward."""
        return self.inner.push(y, context)

    def fold(self) -> Folded:
        """The folded inner map, turned round."""
        return FoldedInvert(self.inner.fold())


class FoldedInvert(Folded):
    """A folded map turned round."""

    def __init__(self, inner: Folded) -> None:
        super().__init__()
        self.inner = inner

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        return self.inner.pull(x, context)

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        return self.inner.push(y, context)
