"""The loop of epochs: steps, validation, patience, and the best weights so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from flowmodel.distributions import Flow
from flowmodel.training.checkpoint import Checkpoint, Saved
from flowmodel.training.gaussian_start import become_gaussian
from flowmodel.training.history import Epoch
from flowmodel.training.optimiser import Optimiser
from flowmodel.training.processes import Processes
from flowmodel.training.source import Batch, Source, jittered

LOWERINGS = 1
"""How often the learning rate is lowered before training ends."""

_WORTH_WAITING = 1e-3
"""Nats per dimension by which validation must get better for training to go on; any better weights are kept."""

_EVALUATION_ROWS = 8192


class Trainer:
    """One training: all its state is here, in the flow, the optimiser and the generator.

    Args:
        flow: The flow, standardised.
        source: Its rows.
        optimiser: Of the flow's parameters.
        processes: Those that train together.
        generator: Draws the order of the rows; on the CPU.
        batch_size: Rows in a step, of all processes together.
        patience: Epochs without a notably better validation until the learning rate is lowered, and until the end.
        seed: Of the noise that spreads whole numbers where the Normal is fitted.
    """

    def __init__(
        self,
        flow: Flow,
        source: Source,
        optimiser: Optimiser,
        processes: Processes,
        generator: torch.Generator,
        *,
        batch_size: int,
        patience: int,
        seed: int,
    ) -> None:
        self._seed = seed
        self._flow, self._source, self._optimiser, self._processes = flow, source, optimiser, processes
        self._batch_size, self._patience = batch_size, patience
        self._generator = generator
        self.history: list[Epoch] = []
        self._best_weights = optimiser.average()
        self._waited, self._lowered, self._to_beat = 0, 0, math.inf
        self.best: Epoch | None = None
        self._gaussian: Epoch | None = None
        self._gaussian_weights: dict[str, Tensor] = {}

    @property
    def out_of_patience(self) -> bool:
        """Whether validation was not better for too long, the learning rate lowered already."""
        return self._waited == self._patience and self._lowered == LOWERINGS

    def run(self, max_epochs: int, checkpoint: Checkpoint | None, progress: Callable[[Epoch], None] | None) -> None:
        """Train to the end, from wherever this training is; the flow is left with its best weights in any case."""
        try:
            if not self.history:
                self._start()
            while self.history[-1].number < max_epochs and not self.out_of_patience:
                self._epoch()
                if checkpoint is not None and self._processes.rank == 0 and checkpoint.due():
                    checkpoint.write(*self.state())
                if progress is not None:
                    progress(self.history[-1])
            if checkpoint is not None and self._processes.rank == 0:
                checkpoint.write(*self.state())
        finally:
            self._optimiser.restore(self._best_weights)
            self._choose()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next epoch depends on: tensors, and JSON values."""
        tensors, numbers = self._optimiser.state()
        tensors |= {f"flow.{name}": value for name, value in self._flow.state_dict().items()}
        tensors |= {f"best.{place}": value for place, value in enumerate(self._best_weights)}
        tensors |= {f"gaussian.{name}": value for name, value in self._gaussian_weights.items()}
        tensors["generator"] = self._generator.get_state()
        return tensors, {
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "best": None if self.best is None else self.best.number,
            "gaussian": None if self._gaussian is None else dataclasses.asdict(self._gaussian),
            "to_beat": self._to_beat,
            "waited": self._waited,
            "lowered": self._lowered,
            "optimiser": numbers,
        }

    def load_state(self, saved: Saved) -> None:
        """Be where the training was that gave this state."""
        tensors, state = saved.tensors, saved.state
        flow_state = {name.removeprefix("flow."): v for name, v in tensors.items() if name.startswith("flow.")}
        self._flow.load_state_dict(flow_state)
        self._best_weights = [
            tensors[f"best.{place}"].to(weights) for place, weights in enumerate(self._optimiser.average())
        ]
        self._generator.set_state(tensors["generator"])
        self._optimiser.load_state(tensors, state["optimiser"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best = next(epoch for epoch in self.history if epoch.number == state["best"])
        self._gaussian = None if state["gaussian"] is None else Epoch(**state["gaussian"])
        self._gaussian_weights = {
            name.removeprefix("gaussian."): v for name, v in tensors.items() if name.startswith("gaussian.")
        }
        self._to_beat, self._waited, self._lowered = state["to_beat"], state["waited"], state["lowered"]

    def _start(self) -> None:
        self.best = self._before_training()
        self.history.append(self.best)
        if math.isfinite(self.best.validation_nll):
            self._to_beat = self.best.validation_nll
        untrained = self._weights()
        if become_gaussian(self._flow, self._source, self._seed):
            self._processes.copy_first_(list(self._flow.parameters()))
            self._gaussian, self._gaussian_weights = self._before_training(), self._weights()
            self._set_weights(untrained)

    def _before_training(self) -> Epoch:
        source = self._source
        losses = self._nll(source.train(), source.train_rows), self._nll(source.validation(), source.validation_rows)
        return Epoch(0, *losses, self._optimiser.learning_rate)

    def _choose(self) -> None:
        """Let the flow be the Normal of greatest likelihood, as if it had begun there, if no epoch was better."""
        gaussian = self._gaussian
        if gaussian is None or self.best is None or self.best.validation_nll <= gaussian.validation_nll:
            return
        self._set_weights(self._gaussian_weights)
        self.best = self.history[0] = gaussian

    def _weights(self) -> dict[str, Tensor]:
        return {name: weights.detach().clone() for name, weights in self._flow.named_parameters()}

    @torch.no_grad()
    def _set_weights(self, given: dict[str, Tensor]) -> None:
        for name, weights in self._flow.named_parameters():
            weights.copy_(given[name])

    def _epoch(self) -> None:
        rate = self._optimiser.learning_rate
        train_nll = self._steps()
        with self._optimiser.averaged_weights():
            validation_nll = self._nll(self._source.validation(), self._source.validation_rows)
        epoch = Epoch(self.history[-1].number + 1, train_nll, validation_nll, rate)
        self.history.append(epoch)
        best = self.best or epoch
        if epoch.validation_nll < best.validation_nll or not math.isfinite(best.validation_nll):
            best, self._best_weights = epoch, self._optimiser.average()
        self.best = best
        if best.validation_nll < self._to_beat - _WORTH_WAITING * math.prod(self._flow.event_shape):
            self._to_beat, self._waited = best.validation_nll, 0
        else:
            self._waited += 1
        if self._waited == self._patience and self._lowered < LOWERINGS:
            self._lowered, self._waited = self._lowered + 1, 0
            self._optimiser.lower(self._best_weights)

    def _steps(self) -> float:
        """One pass over the training rows; their mean negative log-likelihood on the way."""
        total, seen = 0.0, 0
        for batch in self._source.batches(self._batch_size, self._generator):
            loss = self._optimiser.step(self._loss(batch))
            if loss is not None:
                total += loss * len(batch)
                seen += len(batch)
        return total / seen if seen else math.nan

    def _loss(self, batch: Batch) -> Tensor:
        """This process's part of the mean over the batch."""
        # Noise is drawn for the whole batch, so that it does not depend on the number of processes.
        rows = jittered(self._flow, batch.rows, self._generator)
        own = self._processes.share(len(batch))
        idle = own.start == own.stop
        # A process without a row takes the first for nothing: it too must have gradients to add.
        share = Batch(rows, batch.context)[slice(0, 1) if idle else own]
        total = -self._flow.log_prob(share.rows, share.context).sum()
        return total * 0.0 if idle else total / len(batch)

    @torch.no_grad()
    def _nll(self, batches: Iterable[Batch], count: int) -> float:
        total, number = 0.0, 0
        for batch in batches:
            for piece in batch.pieces(_EVALUATION_ROWS):
                if number % self._processes.count == self._processes.rank:
                    total -= self._flow.log_prob(piece.rows, piece.context).to(torch.float64).sum().item()
                number += 1
        shared = torch.tensor(total, dtype=torch.float64, device=self._source.device)
        return self._processes.add_(shared).item() / count
