"""Rows from a Parquet file, a chunk at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from flowmodel.bijectors.base import Bijector
from flowmodel.bijectors.compose import chain_of
from flowmodel.bijectors.standardize import StandardizeBijector
from flowmodel.bijectors.supports import supports_of
from flowmodel.data import check_enough_rows, check_supported, check_varied
from flowmodel.data.moments import Moments
from flowmodel.data.parquet_rows import ParquetRows
from flowmodel.data.table import Matrix
from flowmodel.distributions import Flow
from flowmodel.errors import DataError
from flowmodel.training.source import Batch, Source


class Streamed(Source):
    """Training and held-out rows of a Parquet file.

    Held-out rows stay in memory if they are no more than a chunk.

    Args:
        flow: The flow that is trained.
        data: The rows.
        validation: Fraction of the rows to hold out, or the held-out rows.
        seed: Of the split.

    Raises:
        DataError: The rows cannot be trained on; the text names row and column.
    """

    def __init__(self, flow: Flow, data: ParquetRows, validation: float | ParquetRows, seed: int) -> None:
        super().__init__(flow)
        self.settings = {"chunk_rows": data.chunk_rows}
        _check_width("columns", data.columns, math.prod(flow.event_shape), data.source)
        context_size = 0 if flow.context_shape is None else math.prod(flow.context_shape)
        _check_width("context_columns", data.context_columns, context_size, data.source)
        if isinstance(validation, ParquetRows):
            self._train, self._held_out = data, validation
            if validation.all_columns != data.all_columns:
                raise DataError(f"{validation.source}: other columns to hold out than to train on; expected the same")
        elif 0 < validation < 1:
            self._train, self._held_out, _ = data.split(validation=validation, test=0.0, seed=seed)
        else:
            raise DataError(f"validation={validation}; expected a fraction between 0 and 1, or the held-out rows")
        moments = self._train.scan().moments
        self.train_rows, self.validation_rows = moments.count, self._held_out.scan().moments.count
        check_enough_rows(self.train_rows, len(data.columns), f"{data.source}, training part")
        if not self.validation_rows:
            raise DataError(f"{data.source}: no row is held out; give more rows or a larger validation fraction")
        extremes = np.stack([moments.lowest, moments.highest])
        check_varied(extremes, data.all_columns, f"{data.source}, training part", count=moments.count)
        self._check_supports()
        self._kept: list[Matrix] | None = None
        if self.validation_rows <= data.chunk_rows:
            self._kept = list(self._held_out.chunks())

    def standardize_(self, generator: torch.Generator) -> None:
        """From all training rows, in passes over the file: one for each part that wants a mean and a deviation.

        A part that must see the rows themselves, as one with periodic columns, learns from a chunk of them.
        """
        flow, width, moments = self.flow, len(self._train.columns), self._train.scan().moments
        if flow.context_shape is not None:
            flow.context_location, flow.context_scale = (
                torch.from_numpy(values[width:]).to(self.device) for values in (moments.mean, moments.deviation)
            )
        after: list[Bijector] = []
        for part in reversed(chain_of(flow.bijector)):
            if isinstance(part, StandardizeBijector):
                seen = self._moments(after, width, generator) if after else moments
                part.location, part.scale = (
                    torch.from_numpy(values[:width].copy()).to(self.device) for values in (seen.mean, seen.deviation)
                )
            elif type(part).standardize_ is not Bijector.standardize_:
                sample = self._pulled(after, self._train.sample(self._train.chunk_rows)[0], generator)
                part.standardize_(sample.rows, sample.context)
            after.append(part)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Row groups in random order, their rows mixed in a buffer."""
        drawn = int(torch.randint(2**62, (), generator=generator))
        left: Matrix = np.empty((0, len(self._train.all_columns)))
        for piece in self._train.shuffled(np.random.default_rng(drawn)):
            left = np.concatenate([left, piece]) if len(left) else piece
            whole = len(left) // size * size
            for start in range(0, whole, size):
                yield self._batch(left[start : start + size])
            left = left[whole:]
        if len(left):
            yield self._batch(left)

    def train(self) -> Iterator[Batch]:
        """Chunk by chunk."""
        return (self._batch(chunk) for chunk in self._train.chunks())

    def validation(self) -> Iterator[Batch]:
        """Chunk by chunk."""
        return (self._batch(chunk) for chunk in (self._held_out.chunks() if self._kept is None else self._kept))

    def fingerprint(self) -> str:
        """Of both parts."""
        both = self._train.scan().fingerprint + self._held_out.scan().fingerprint
        return hashlib.sha256(both.encode()).hexdigest()

    def _check_supports(self) -> None:
        preprocessing = supports_of(self.flow.bijector)
        if preprocessing is None:
            return
        for part, name in ((self._train, "training"), (self._held_out, "validation")):
            before = 0
            for chunk in part.chunks():
                place = f"{part.source}, {name} part" + (f", after its first {before} rows" if before else "")
                check_supported(chunk[:, : len(part.columns)], part.columns, preprocessing.supports, place)
                before += len(chunk)

    def _batch(self, chunk: Matrix) -> Batch:
        width = len(self._train.columns)
        rows = torch.from_numpy(chunk[:, :width]).reshape(-1, *self.flow.event_shape)
        rows = rows.to(device=self.device, dtype=self.flow.data_dtype)
        if self.flow.context_shape is None:
            return Batch(rows, None)
        return Batch(rows, torch.from_numpy(chunk[:, width:]).reshape(-1, *self.flow.context_shape).to(self.device))

    @torch.no_grad()
    def _pulled(self, after: list[Bijector], chunk: Matrix, generator: torch.Generator) -> Batch:
        """Rows, flat, as a part sees them behind those that they meet before."""
        batch = self._batch(chunk)
        context = self.flow.standard_context(batch.context)
        rows = self.flow.bijector.jitter(batch.rows.reshape(len(batch), -1), generator)
        context = None if context is None else context.reshape(len(batch), -1)
        for part in after:
            rows = part.pull(rows, context)[0]
        return Batch(rows, context)

    def _moments(self, after: list[Bijector], width: int, generator: torch.Generator) -> Moments:
        moments = Moments(width)
        for chunk in self._train.chunks():
            moments.add(self._pulled(after, chunk, generator).rows.to(torch.float64).cpu().numpy())
        return moments


def _check_width(what: str, names: tuple[str, ...], expected: int, source: str) -> None:
    if len(names) != expected:
        raise DataError(f"{source}: {len(names)} {what} given ({', '.join(names)}); the flow needs {expected}")
