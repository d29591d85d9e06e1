"""What happened while a flow was trained."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over the training rows.

    Args:
        number: From 1; number 0 is the flow as it was before the first step, standardised.
        train_nll: Mean negative log-likelihood of the training rows, in nats, taken while the weights changed.
        validation_nll: That of the held-out rows, in nats, under the averaged weights.
        learning_rate: Of the optimiser in this epoch.
    """

    number: int
    train_nll: float
    validation_nll: float
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The history of a training; the flow itself holds the weights of the best epoch.

    Args:
        history: Every epoch, the untrained one first.
        best_epoch: Number of the epoch whose weights were kept; 0 for those before the first step, or for the Normal of
            greatest likelihood.
        stopped: Why training ended: no better validation for long enough, or the largest number of epochs.
        skipped_steps: Steps left out because the loss or its gradient was not finite.
        train_rows: Rows trained on.
        validation_rows: Rows held out to choose the best weights.
        dimensions: Values in a row, for bits per dimension.
        settings: Seed and hyperparameters as they were used.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    stopped: Literal["patience", "max_epochs"]
    skipped_steps: int
    train_rows: int
    validation_rows: int
    dimensions: int
    settings: dict[str, Any]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return next(epoch for epoch in self.history if epoch.number == self.best_epoch)

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return self.history[-1].number

    def summary(self) -> dict[str, Any]:
        """Everything but the epochs one by one, as JSON values."""
        best = self.best
        return {
            "rows": {"train": self.train_rows, "validation": self.validation_rows},
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "skipped_steps": self.skipped_steps,
            "train_nll": best.train_nll,
            "validation_nll": best.validation_nll,
            "train_bits_per_dimension": bits_per_dimension(best.train_nll, self.dimensions),
            "validation_bits_per_dimension": bits_per_dimension(best.validation_nll, self.dimensions),
            **self.settings,
        }


def bits_per_dimension(nll: float, dimensions: int) -> float:
    """A negative log-likelihood in nats per row as bits per dimension.

    Example:
        >>> round(bits_per_dimension(math.log(2) * 6, 3), 12)
        2.0
    """
    return nll / (dimensions * math.log(2))
