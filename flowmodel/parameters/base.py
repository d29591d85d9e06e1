"""What every conditioner plan promises to the bijector that uses it."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, TypeVar

import torch

from flowmodel.errors import PlanError
from flowmodel.plans import Plan

C = TypeVar("C", bound="Parameters")


@dataclasses.dataclass(frozen=True)
class Parameters(Plan, abc.ABC):
    """Plan of a conditioner: the network, or the bare tensor, that gives a bijector its parameters."""

    @abc.abstractmethod
    def build(self, event_size: int, context_size: int, params_per_dim: int) -> torch.nn.Module:
        """The conditioner for events of ``event_size`` scalars, each needing ``params_per_dim`` parameters.

        The module maps ``x[B, D]`` and ``context[B, C]`` (or ``None`` where ``context_size`` is 0) to ``[B, D, P]``,
        all zero at first, so that the bijector it steers begins as the identity.
        """


def as_conditioner(owner: str, given: Any, expected: type[C], example: str) -> C:
    """``given`` as a plan of the class ``expected``; the class itself, and ``None``, stand for its defaults.

    Raises:
        PlanError: it is something else.
    """
    if given is None or given is expected:
        return expected()
    if not isinstance(given, expected):
        raise PlanError(f"{owner}: params_fn={given!r} given; expected a plan such as {example}")
    return given
