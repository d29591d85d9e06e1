"""The rows that ``flowmodel train`` works with, in three parts."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from flowmodel.data import Split, Table
from flowmodel.distributions import Flow
from flowmodel.errors import DataError

Matrix = npt.NDArray[np.float64]
PartName = Literal["train", "validation", "test"]

_EVALUATION_ROWS = 8192


class Part(NamedTuple):
    """Features ``[N, D]``, and contexts ``[N, C]`` if the model has any."""

    rows: Matrix
    context: Matrix | None


class TableData:
    """A table in memory, split.

    Args:
        features: Columns whose density is learnt.
        contexts: Columns it depends on.
        split: Rows of the three parts.
    """

    def __init__(self, features: Table, contexts: Table | None, split: Split) -> None:
        self.source = features.source
        self.columns = features.columns
        self.context_columns = () if contexts is None else contexts.columns
        self.counts = {name: len(indices) for name, indices in split._asdict().items()}
        self._features, self._contexts, self._split = features, contexts, split

    @property
    def features(self) -> Table:
        """The rows from which supports are guessed and to which declared ones are held."""
        return self._features

    def part(self, name: PartName, most: int | None = None) -> Part:
        """Rows of one part, at most so many."""
        indices = getattr(self._split, name)[:most]
        return Part(self._features.rows[indices], None if self._contexts is None else self._contexts.rows[indices])

    def row_numbers(self, name: PartName, most: int | None = None) -> list[int]:
        """Where the rows of :meth:`part` stand in the file, from 1."""
        return [int(index) + 1 for index in getattr(self._split, name)[:most]]

    def fit_arguments(self) -> dict[str, Any]:
        """What ``fit`` is to be called with."""
        train, validation = self.part("train"), self.part("validation")
        return {
            "data": train.rows,
            "context": train.context,
            "validation": validation.rows,
            "validation_context": validation.context,
        }

    def fingerprint(self) -> str:
        """SHA-256 of names and values of all columns used, features first."""
        if self._contexts is None:
            return self._features.fingerprint()
        both = np.concatenate([self._features.rows, self._contexts.rows], axis=1)
        return Table(self._features.columns + self._contexts.columns, both, self.source).fingerprint()

    def test_nll(self, flow: Flow) -> float:
        """Mean negative log-likelihood of the test rows, in nats.

        Raises:
            DataError: It is not finite.
        """
        return finite_nll(-float(np.mean(log_prob(flow, self.part("test")))), self.source)

    def coarse_columns(self) -> list[str]:
        """Columns that float32 cannot resolve: scored exactly, in float64, but samples come in float32."""
        step = np.abs(self._features.rows).max(0) * np.finfo(np.float32).eps
        coarse = step > 0.01 * self._features.rows.std(0)
        return [name for name, is_coarse in zip(self.columns, coarse, strict=True) if is_coarse]


@torch.no_grad()
def log_prob(flow: Flow, part: Part) -> Matrix:
    """Log-densities ``[N]`` of the rows of a part."""
    pieces = []
    for start in range(0, len(part.rows), _EVALUATION_ROWS):
        piece = slice(start, start + _EVALUATION_ROWS)
        context = None if part.context is None else torch.from_numpy(part.context[piece])
        pieces.append(flow.log_prob(torch.from_numpy(part.rows[piece]), context).numpy().astype(np.float64))
    return np.concatenate(pieces)


def finite_nll(nll: float, source: str) -> float:
    """The value, if it is finite.

    Raises:
        DataError: It is not.
    """
    if not math.isfinite(nll):
        raise DataError(
            f"{source}: a test row has no finite log-density under the trained flow; look for rows far from all "
            "others, or give more of them"
        )
    return nll
