"""Several bijectors one after the other."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowmodel.bijectors.base import Bijector, BijectorPlan, Folded, as_plan
from flowmodel.bijectors.domain import fits, in_words, interval_of, over_event
from flowmodel.errors import DomainError, PlanError, ShapeMismatchError


@dataclasses.dataclass(frozen=True)
class Compose(BijectorPlan):
    """Plan of several bijectors: noise enters the first, data leave the last.

    Args:
        bijectors: the plans; of a class without arguments the class will do.

    Raises:
        PlanError: the sequence is empty, holds something else than plans of bijectors, or has a part before the last
            that must be next to the data.
        DomainError: what one part gives may lie where the next is not defined.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> plan = bij.Compose([bij.AffineAutoregressive(), bij.Permute(), bij.AffineAutoregressive()])
        >>> plan(shape=torch.Size([4])).inverse(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    bijectors: Sequence[BijectorPlan]

    def __post_init__(self) -> None:
        if isinstance(self.bijectors, BijectorPlan):
            raise PlanError(
                f"Compose: the single plan {self.bijectors!r} given; expected a sequence, such as "
                f"bij.Compose([{self.bijectors!r}])"
            )
        if not isinstance(self.bijectors, Sequence):
            raise PlanError(
                f"Compose: bijectors={self.bijectors!r} given; expected a sequence of plans, such as "
                "bij.Compose([bij.AffineAutoregressive(), bij.Permute()])"
            )
        parts = tuple(as_plan(f"Compose: bijectors[{place}]", part) for place, part in enumerate(self.bijectors))
        object.__setattr__(self, "bijectors", parts)
        if not self.bijectors:
            raise PlanError(
                "Compose: no bijectors given; expected at least one plan, such as bij.AffineAutoregressive()"
            )
        for place, plan in enumerate(parts[:-1]):
            if plan.next_to_data:
                raise PlanError(
                    f"Compose: bijectors[{place}] ({type(plan).__name__}) has whole or periodic columns, and "
                    f"bijectors[{place + 1}] ({type(parts[place + 1]).__name__}) stands between it and the data; put "
                    "the first of them last"
                )
        event_dims = max(plan.domain.event_dim for plan in parts)
        object.__setattr__(self, "domain", over_event(parts[0].domain, event_dims))
        object.__setattr__(self, "codomain", over_event(self.image(self.domain), event_dims))

    @property
    def next_to_data(self) -> bool:
        """As the last part says."""
        return self.bijectors[-1].next_to_data

    def image(self, of: Constraint) -> Constraint:
        """Where the data lie if the noise lies in ``of``.

        Raises:
            DomainError: what one part gives may lie where the next is not defined.
        """
        for place, plan in enumerate(self.bijectors):
            if place and not fits(of, plan.domain):
                raise DomainError(
                    f"Compose: bijectors[{place - 1}] ({type(self.bijectors[place - 1]).__name__}) gives "
                    f"{in_words(of)}, and bijectors[{place}] ({type(plan).__name__}) only takes "
                    f"{in_words(plan.domain)}; put a bijector between them that maps the one to the other (Exp, "
                    "Softplus: all real numbers to positive ones; Sigmoid: to those between 0 and 1; Invert turns each "
                    "round), or change the order"
                )
            of = plan.image(of)
        return of

    def preimage(self, of: Constraint) -> Constraint:
        """Where the noise lies if the data lie in ``of``."""
        for plan in reversed(self.bijectors):
            of = plan.preimage(of)
        return of

    def build(self, event_shape: torch.Size, context_shape: torch.Size | None = None) -> "ComposeBijector":
        """The concrete chain.

        Raises:
            ShapeMismatchError: one of the parts cannot be built for that shape; the text names its place.
        """
        parts = []
        for place, plan in enumerate(self.bijectors):
            try:
                parts.append(plan.build(event_shape, context_shape))
            except ShapeMismatchError as error:
                raise ShapeMismatchError(f"Compose: bijectors[{place}]: {error}") from error
        return ComposeBijector(parts, self.codomain)


class ComposeBijector(Bijector):
    """The chain built from :class:`Compose`."""

    def __init__(self, parts: list[Bijector], codomain: Constraint) -> None:
        super().__init__(parts[0].event_shape, parts[0].context_shape)
        self.parts = torch.nn.ModuleList(parts)
        for before, part in itertools.pairwise(parts):
            part.gives_float64 = before.takes_float64
        self._codomain = codomain

    @property
    def chain(self) -> list[Bijector]:
        """The parts, first the one that the noise enters."""
        return cast(list[Bijector], list(self.parts))

    @property
    def domain(self) -> Constraint:
        """That of the first part."""
        return self.chain[0].domain

    @property
    def codomain(self) -> Constraint:
        """What comes through the chain from all of the first part's domain."""
        if interval_of(self._codomain) is None:
            return self.chain[-1].codomain
        return over_event(self._codomain, len(self.event_shape))

    @property
    def takes_float64(self) -> bool:
        """As the last part, next to the data, does."""
        return self.chain[-1].takes_float64

    @property
    def constant_log_det(self) -> bool:
        """Whether it is so for every part."""
        return all(part.constant_log_det for part in self.chain)

    @property
    def reads_context(self) -> bool:
        """Whether any part does."""
        return any(part.reads_context for part in self.chain)

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

    def integers(self) -> Tensor:
        """As the last part, next to the data, says."""
        return self.chain[-1].integers()

    def jitter(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As the last part, next to the data, does."""
        return self.chain[-1].jitter(y, generator)

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


def chain_of(bijector: Bijector) -> list[Bijector]:
    """The parts of a bijector, compositions opened, first the one that the noise enters."""
    if isinstance(bijector, ComposeBijector):
        return [part for inner in bijector.chain for part in chain_of(inner)]
    return [bijector]
