"""Several bijectors one after the other."""

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded
from flowmodel.errors import FlowModelError, PlanError, ShapeMismatchError


@dataclasses.dataclass(frozen=True)
class Compose(BijectorPlan):
    """Plan of several bijectors: noise enters the first, data leave the last.

    Raises:
        PlanError: the sequence is empty or holds something else than plans of bijectors.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> plan = bij.Compose([bij.AffineAutoregressive(), bij.Permute(), bij.AffineAutoregressive()])
        >>> plan(shape=torch.Size([4])).inverse(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    bijectors: Sequence[BijectorPlan]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bijectors", tuple(self.bijectors))
        if not self.bijectors:
            raise PlanError(
                "Compose: no bijectors given; expected at least one plan, such as bij.AffineAutoregressive()"
            )
        for place, part in enumerate(self.bijectors):
            if not isinstance(part, BijectorPlan):
                raise PlanError(
                    f"Compose: bijectors[{place}] is {part!r}; expected the plan of a bijector, such as "
                    "bij.AffineAutoregressive()"
                )

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "ComposeBijector":
        """The concrete chain.

        Raises:
            ShapeMismatchError: one of the parts cannot be built for that shape; the text names its place.
        """
        parts = []
        for place, plan in enumerate(self.bijectors):
            try:
                parts.append(plan.build(event_shape, context_shape))
            except FlowModelError as error:
                raise ShapeMismatchError(f"Compose: bijectors[{place}]: {error}") from error
        return ComposeBijector(parts)


class ComposeBijector(Bijector):
    """The chain built from :class:`Compose`."""

    def __init__(self, parts: list[Bijector]) -> None:
        super().__init__(parts[0].event_shape, parts[0].context_shape)
        self.parts = torch.nn.ModuleList(parts)

    @property
    def chain(self) -> list[Bijector]:
        """The parts, first the one that the noise enters."""
        return cast(list[Bijector], list(self.parts))

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data, first part first."""
        log_det = x.new_zeros(x.shape[0])
        for part in self.chain:
            x, part_log_det = part.push(x, context)
            log_det = log_det + part_log_det
        return x, log_det

    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise, last part first."""
        y, log_det = self.chain[-1].pull(y, context)
        for part in reversed(self.chain[:-1]):
            y, part_log_det = part.pull(y, context)
            log_det = log_det + part_log_det
        return y, log_det

    def standardize_(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Each part learns from the data as they reach it, last part first."""
        for part in reversed(self.chain):
            y = part.standardize_(y, context)
        return y

    def fold(self) -> Folded:
        """The folded parts in a row."""
        return FoldedCompose([part.fold() for part in self.chain])


class FoldedCompose(Folded):
    """Folded maps one after the other."""

    def __init__(self, parts: list[Folded]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    @torch.jit.export
    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        log_dets: list[Tensor] = []
        for part in self.parts:
            x, log_det = part.push(x, context)  # type: ignore[operator]
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(0)

    @torch.jit.export
    def pull(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        log_dets: list[Tensor] = []
        for part in self.parts[::-1]:
            y, log_det = part.pull(y, context)  # type: ignore[operator]
            log_dets.append(log_det)
        return y, torch.stack(log_dets).sum(0)
