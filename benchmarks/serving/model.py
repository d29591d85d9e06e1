"""The model that every server serves, the requests, and what they must be answered with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from kernel.subject import Subject
from numpy.typing import NDArray

import flowmodel

NAME = "bench"

DIMS, HIDDEN = 8, 128
"""D and the width of both hidden layers."""

FEATURES = tuple(f"x{index}" for index in range(DIMS))

TOLERANCE = 1e-2
"""In nats: an answer further from the reference than this is wrong, and not merely rounded."""


@dataclass(frozen=True)
class Question:
    """Rows ``[N, D]`` in float32 and their log-densities ``[N]`` by the reference in float64."""

    rows: NDArray[np.float32]
    log_prob: NDArray[np.float64]

    def check(self, answer: NDArray[np.float32]) -> None:
        """See that an answer is right.

        Raises:
            ValueError: it has another length, or is too far from the reference.
        """
        if answer.shape != self.log_prob.shape:
            raise ValueError(f"answered {answer.shape}, expected {self.log_prob.shape}")
        error = float(np.abs(answer - self.log_prob).max())
        if not error <= TOLERANCE:
            raise ValueError(f"the answer is {error:.3g} nats away from the reference")


class Model:
    """The flow, published into a store of its own.

    Args:
        folder: for the store.
        layers: affine autoregressive layers of the flow.

    Attributes:
        store: directory with the published model, called ``NAME``.
        scorer: the TorchScript file in it, which every server loads.
        archive: the TorchServe archive in it.
    """

    def __init__(self, folder: Path, layers: int) -> None:
        self._subject = Subject(DIMS, HIDDEN, layers)
        published = flowmodel.publish(self._subject.flow, folder, NAME, feature_names=list(FEATURES))
        self.store = folder
        self.scorer = published.scorer_path
        self.archive = next(published.scorer_path.parent.glob("*.mar"))

    def question(self, count: int) -> Question:
        """So many rows of the flow's own distribution."""
        noise, rows = self._subject.rows(count)
        with torch.no_grad():
            reference = self._subject.reference(rows, noise)
        return Question(np.ascontiguousarray(rows.numpy(), np.float32), reference.double().numpy())
