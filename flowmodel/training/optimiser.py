"""AdamW with what keeps training sound: clipping, skipped steps counted, and a running average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flowmodel.errors import TrainingError
from flowmodel.training.processes import Processes

_AVERAGE = 0.99
_LOWERING = 0.3
_MOST_SKIPPED_IN_A_ROW = 20


class Optimiser:
    """Steps over the parameters of a module, and their average.

    Args:
        module: What is trained.
        learning_rate: Of AdamW, at first.
        weight_decay: Of AdamW.
        clip_norm: Largest norm of the gradient.
        processes: Those that step together.

    Raises:
        TrainingError: The module has no parameters.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        learning_rate: float,
        weight_decay: float,
        clip_norm: float,
        processes: Processes,
    ) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise TrainingError(
                "the flow has no parameters to train; expected a plan such as bij.AffineAutoregressive()"
            )
        self._adam = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay)
        self._clip_norm = clip_norm
        self._processes = processes
        self._average = self._copy()
        self._steps = 0
        self._skipped_in_a_row = 0
        self.skipped = 0

    @property
    def learning_rate(self) -> float:
        """The present learning rate."""
        return float(self._adam.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> float | None:
        """One step down the gradient of ``loss``, unless that or its gradient is not finite.

        Args:
            loss: This process's part of the loss; the loss is the sum over all processes.

        Returns:
            The loss, or ``None`` where the step was not taken.

        Raises:
            TrainingError: Too many steps in a row could not be taken.
        """
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        loss = self._processes.add_gradients_(self._parameters, loss)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self._skip(loss.item(), norm.item())
            return None
        self._adam.step()
        self._skipped_in_a_row = 0
        self._steps += 1
        # The average forgets its start, the untrained weights, within the first steps.
        weight = 1 - min(_AVERAGE, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, list(self._parameters), weight)
        return loss.item()

    def average(self) -> list[Tensor]:
        """A copy of the averaged weights."""
        return [value.clone() for value in self._average]

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The module with its averaged weights, for a while."""
        present = self._copy()
        self.restore(self._average)
        try:
            yield
        finally:
            self.restore(present)

    @torch.no_grad()
    def restore(self, weights: list[Tensor]) -> None:
        """Put these weights into the module."""
        for parameter, value in zip(self._parameters, weights, strict=True):
            parameter.copy_(value)

    def lower(self, weights: list[Tensor]) -> None:
        """Go on from these weights with a lower learning rate."""
        self.restore(weights)
        self._average = [value.clone() for value in weights]
        for group in self._adam.param_groups:
            group["lr"] *= _LOWERING

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on, but for the weights: tensors, and JSON values."""
        tensors = {f"average.{place}": value for place, value in enumerate(self._average)}
        for place, values in self._adam.state_dict()["state"].items():
            tensors |= {f"adam.{place}.{name}": value for name, value in values.items()}
        return tensors, {
            "learning_rate": self.learning_rate,
            "steps": self._steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on where another optimiser of the same module was."""
        for place, value in enumerate(self._average):
            value.copy_(tensors[f"average.{place}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, place_text, name = key.split(".")
                state.setdefault(int(place_text), {})[name] = value
        groups = self._adam.state_dict()["param_groups"]
        for given in groups:
            given["lr"] = numbers["learning_rate"]
        self._adam.load_state_dict({"state": state, "param_groups": groups})
        self._steps, self.skipped = numbers["steps"], numbers["skipped"]
        self._skipped_in_a_row = numbers["skipped_in_a_row"]

    def _copy(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _skip(self, loss: float, norm: float) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self._skipped_in_a_row} steps in a row had no finite gradient (the last loss was {loss:g}, the norm "
                f"of its gradient {norm:g}); lower learning_rate (now {self.learning_rate:g}), put bij.Standardize() "
                "last in the plan, or look for rows far from all others"
            )
