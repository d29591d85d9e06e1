"""The inverse of another bijector, as a bijector."""

import dataclasses

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded, as_plan
from flowmodel.errors import PlanError


@dataclasses.dataclass(frozen=True)
class Invert(BijectorPlan):
    """Plan of the inverse of ``bijector``: its forward is the other's inverse, log-determinants with it.

    ``Invert(AffineAutoregressive())`` is masked autoregressive flow: the density, and so each training step, is one
    dense pass, and sampling goes one degree at a time. Domain and codomain change over too.

    Args:
        bijector: the plan; of a class without arguments the class will do.

    Raises:
        PlanError: ``bijector`` is not the plan of a bijector, or of one with whole or periodic columns.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> bijector = bij.Invert(bij.AffineAutoregressive())(shape=torch.Size([2]))
        >>> bijector.inverse(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """

    bijector: BijectorPlan

    def __post_init__(self) -> None:
        inner = as_plan("Invert", self.bijector)
        if inner.next_to_data:
            raise PlanError(
                f"Invert: {type(inner).__name__} with whole or periodic columns given, which has no inverse as a part "
                "of a flow: many data go to one noise; leave it as it is, and last"
            )
        object.__setattr__(self, "bijector", inner)
        object.__setattr__(self, "domain", inner.codomain)
        object.__setattr__(self, "codomain", inner.domain)

    def image(self, of: Constraint) -> Constraint:
        """The inner preimage."""
        return self.bijector.preimage(of)

    def preimage(self, of: Constraint) -> Constraint:
        """The inner image."""
        return self.bijector.image(of)

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "InvertBijector":
        """The concrete inverse."""
        return InvertBijector(self.bijector.build(event_shape, context_shape))


class InvertBijector(Bijector):
    """The map built from :class:`Invert`."""

    def __init__(self, inner: Bijector) -> None:
        super().__init__(inner.event_shape, inner.context_shape)
        self.inner = inner

    @property
    def domain(self) -> Constraint:
        """The inner codomain."""
        return self.inner.codomain

    @property
    def codomain(self) -> Constraint:
        """The inner domain."""
        return self.inner.domain

    @property
    def constant_log_det(self) -> bool:
        """As of the inner map."""
        return self.inner.constant_log_det

    @property
    def reads_context(self) -> bool:
        """As the inner map does."""
        return self.inner.reads_context

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
