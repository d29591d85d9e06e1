"""The rows of ``flowmodel train`` where they do not fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flowmodel.cli.training_data import Part, PartName, finite_nll, log_prob
from flowmodel.data import Table, check_enough_rows, check_varied
from flowmodel.data.parquet_rows import Numbers, ParquetRows
from flowmodel.data.table import Matrix
from flowmodel.distributions import Flow


class ChunkedData:
    """A Parquet file read in chunks, split by a hash of each row's number; answers as ``TableData`` does.

    Args:
        rows: The whole file; it is scanned.
        validation: Fraction of rows that choose the weights.
        test: Fraction of rows for the test.
        seed: Of the split.

    Raises:
        DataError: The file cannot be trained on; the text names row and column.
    """

    def __init__(self, rows: ParquetRows, *, validation: float, test: float, seed: int) -> None:
        self.source, self.columns, self.context_columns = rows.source, rows.columns, rows.context_columns
        self._rows, self._moments = rows, rows.scan().moments
        check_enough_rows(self._moments.count, len(self.columns), self.source)
        extremes = np.stack([self._moments.lowest, self._moments.highest])
        check_varied(extremes, rows.all_columns, self.source, count=self._moments.count)
        parts = rows.split(validation=validation, test=test, seed=seed)
        self._parts = dict(zip(("train", "validation", "test"), parts, strict=True))
        self.counts = {name: part.scan().moments.count for name, part in self._parts.items()}
        for name in ("validation", "test"):
            check_enough_rows(self.counts[name], 1, f"{self.source}, {name} part")

    @property
    def features(self) -> Table:
        """A chunk's worth of rows, each as likely as any other, from which supports are guessed."""
        sample, _ = self._rows.sample(self._rows.chunk_rows)
        return Table(self.columns, sample[:, : len(self.columns)], self.source)

    def part(self, name: PartName, most: int | None = None) -> Part:
        """Rows of one part, drawn at random; never more than a chunk."""
        return self._split(self._sampled(name, most)[0])

    def row_numbers(self, name: PartName, most: int | None = None) -> list[int]:
        """Where the rows of :meth:`part` stand in the file, from 1."""
        return [int(place) + 1 for place in self._sampled(name, most)[1]]

    def fit_arguments(self) -> dict[str, Any]:
        """What ``fit`` is to be called with."""
        return {"data": self._parts["train"], "validation": self._parts["validation"]}

    def fingerprint(self) -> str:
        """SHA-256 of names and values of all columns used, features first."""
        return self._rows.scan().fingerprint

    def test_nll(self, flow: Flow) -> float:
        """Mean negative log-likelihood of all test rows, in nats.

        Raises:
            DataError: It is not finite.
        """
        total = sum(
            float(log_prob(flow, self._split(chunk)).sum()) for chunk in self._parts["test"].chunks() if len(chunk)
        )
        return finite_nll(-total / self.counts["test"], self.source)

    def coarse_columns(self) -> list[str]:
        """Columns that float32 cannot resolve: scored exactly, in float64, but samples come in float32."""
        largest = np.maximum(np.abs(self._moments.lowest), np.abs(self._moments.highest))
        coarse = largest * torch.finfo(torch.float32).eps > 0.01 * self._moments.deviation
        return [name for name, is_coarse in zip(self._rows.columns, coarse.tolist(), strict=False) if is_coarse]

    def _sampled(self, name: PartName, most: int | None) -> tuple[Matrix, Numbers]:
        return self._parts[name].sample(min(most or self._rows.chunk_rows, self._rows.chunk_rows))

    def _split(self, chunk: Any) -> Part:
        width = len(self.columns)
        rows = np.ascontiguousarray(chunk[:, :width])
        return Part(rows, np.ascontiguousarray(chunk[:, width:]) if self.context_columns else None)
