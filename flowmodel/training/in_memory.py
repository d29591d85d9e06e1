"""Rows in memory: arrays or tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmodel.bijectors.supports import supports_of
from flowmodel.data import check_enough_rows, check_finite, check_supported, check_varied, split_rows
from flowmodel.distributions import Flow
from flowmodel.errors import DataError
from flowmodel.training.source import Batch, Source, jittered

Rows = Tensor | np.ndarray[Any, Any]


class InMemory(Source):
    """Arrays or tensors, checked, in float64, and moved to the flow's device.

    Args:
        flow: The flow that is trained.
        data: ``[N, *event_shape]``.
        context: ``[N, *context_shape]``.
        validation: Fraction of the rows to hold out, or the held-out rows themselves.
        validation_context: Contexts of the held-out rows, where these are given.
        seed: Of the split.

    Raises:
        DataError: The rows cannot be trained on; the text names row and column.
    """

    def __init__(
        self,
        flow: Flow,
        data: Rows,
        context: Rows | None,
        validation: float | Rows,
        validation_context: Rows | None,
        seed: int,
    ) -> None:
        super().__init__(flow)
        rows = _checked("data", data, flow.event_shape)
        contexts = _checked_context("context", context, flow, len(rows))
        if isinstance(validation, float | int):
            if not 0 < validation < 1:
                raise DataError(f"validation={validation}; expected a fraction between 0 and 1, or the held-out rows")
            split = split_rows(len(rows), validation=validation, test=0.0, seed=seed)
            held_out = rows[split.validation]
            held_out_contexts = None if contexts is None else contexts[split.validation]
            rows, contexts = rows[split.train], None if contexts is None else contexts[split.train]
        else:
            held_out = _checked("validation", validation, flow.event_shape)
            held_out_contexts = _checked_context("validation_context", validation_context, flow, len(held_out))
        # Once more after the split: a column may vary over all rows and not over those trained on.
        for name, part in (("the training rows", rows), ("the training contexts", contexts)):
            if part is not None:
                flat = part.reshape(len(part), -1)
                check_varied(flat, [str(column) for column in range(flat.shape[1])], name)
        preprocessing = supports_of(flow.bijector)
        if preprocessing is not None:
            for name, part in (("the training rows", rows), ("the validation rows", held_out)):
                flat = part.reshape(len(part), -1)
                check_supported(flat, [str(column) for column in range(flat.shape[1])], preprocessing.supports, name)
        self.train_rows, self.validation_rows = len(rows), len(held_out)
        self._exact = self._on_device(rows, contexts)
        held_out_batch = self._on_device(held_out, held_out_contexts)
        self._train, self._validation = (
            Batch(part.rows.to(flow.data_dtype), part.context) for part in (self._exact, held_out_batch)
        )
        self._arrays = [part for part in (rows, contexts, held_out, held_out_contexts) if part is not None]

    def standardize_(self, generator: torch.Generator) -> None:
        """From all training rows, in float64."""
        self.flow.standardize_(jittered(self.flow, self._exact.rows, generator), self._exact.context)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """The rows in an order drawn anew."""
        rows, context = self._train.rows, self._train.context
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            yield Batch(rows[batch], None if context is None else context[batch])

    def train(self) -> Iterator[Batch]:
        """All at once."""
        yield self._train

    def validation(self) -> Iterator[Batch]:
        """All at once."""
        yield self._validation

    def fingerprint(self) -> str:
        """Of the values as they were given, in float64."""
        digest = hashlib.sha256()
        for array in self._arrays:
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<f8").data)
        return digest.hexdigest()

    def _on_device(self, rows: np.ndarray[Any, Any], contexts: np.ndarray[Any, Any] | None) -> Batch:
        def moved(part: np.ndarray[Any, Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(part)).to(self.device)

        return Batch(moved(rows), None if contexts is None else moved(contexts))


def _checked(name: str, given: Rows, shape: torch.Size) -> np.ndarray[Any, Any]:
    values = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{name}: an array of dtype {values.dtype}; expected real numbers")
    if values.ndim != len(shape) + 1 or values.shape[1:] != tuple(shape):
        expected = ", ".join(["N", *map(str, shape)])
        raise DataError(
            f"{name}: an array of shape {values.shape}; expected [{expected}], as the flow's event shape says"
        )
    values = values.astype(np.float64)
    flat = values.reshape(len(values), math.prod(shape))
    columns = [str(column) for column in range(flat.shape[1])]
    if not name.startswith("validation"):
        check_enough_rows(len(flat), flat.shape[1], name)
        check_finite(flat, columns, name)
        check_varied(flat, columns, name)
    elif not len(flat):
        raise DataError(f"{name}: there are no rows; give some, or a fraction of the data to hold out")
    check_finite(flat, columns, name)
    return values


def _checked_context(name: str, given: Rows | None, flow: Flow, count: int) -> np.ndarray[Any, Any] | None:
    if flow.context_shape is None:
        if given is not None:
            raise DataError(
                f"{name}: was given, but the flow takes none; make it with context_shape=..., or leave it out"
            )
        return None
    if given is None:
        raise DataError(f"{name}: is missing; the flow needs one of shape {tuple(flow.context_shape)} for each row")
    values = _checked(name, given, flow.context_shape)
    if len(values) != count:
        raise DataError(f"{name}: {len(values)} contexts for {count} rows; expected one for each row")
    return values
