"""Where ``fit`` takes its rows from."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowmodel.distributions import Flow
from flowmodel.errors import ArgumentError


@dataclass(frozen=True)
class Batch:
    """Rows ``[B, *event_shape]`` in the dtype that the flow reads, and their contexts, if there are any."""

    rows: Tensor
    context: Tensor | None

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.rows[part], None if self.context is None else self.context[part])

    def __len__(self) -> int:
        return len(self.rows)

    def pieces(self, size: int) -> Iterator[Batch]:
        """The batch in pieces of at most so many rows."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


class Source(abc.ABC):
    """Rows to train on and rows held out, checked.

    Args:
        flow: The flow that is trained.

    Raises:
        ArgumentError: It is something else.
    """

    train_rows: int
    validation_rows: int

    def __init__(self, flow: Flow) -> None:
        if not isinstance(flow, Flow):
            raise ArgumentError(
                f"fit: flow={flow!r} given; expected a flow, such as dist.Flow(base_dist, bij.AffineAutoregressive())"
            )
        self.flow = flow
        self.settings: dict[str, Any] = {}
        """What of the source decides the order of the rows, beside the rows."""
        self.device = next((parameter.device for parameter in flow.parameters()), torch.device("cpu"))

    @abc.abstractmethod
    def standardize_(self, generator: torch.Generator) -> None:
        """Let the flow learn location, scale and the like from the training rows, whole numbers jittered."""

    @abc.abstractmethod
    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One pass over the training rows in random order; all but the last batch have ``size`` rows."""

    @abc.abstractmethod
    def train(self) -> Iterator[Batch]:
        """The training rows in order."""

    @abc.abstractmethod
    def validation(self) -> Iterator[Batch]:
        """The rows held out, in order."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all rows and contexts."""


def jittered(flow: Flow, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows with whole numbers spread over their cells; the rows themselves, and nothing drawn, if there are none."""
    return flow.bijector.jitter(rows.reshape(len(rows), -1), generator).reshape(rows.shape)
