"""What one model takes: the shapes and names that every request is checked against before it is queued."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest, RowError, Violation
from service.tensors import FloatArray

MAX_ROW_ERRORS = 10_000
"""How many bad rows of one request are described; the others are still answered NaN."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Shapes and names of a model's rows and contexts.

    Attributes:
        model: its name, for error texts.
        event_shape: shape of one row; D is the product.
        context_shape: shape of one row's context, None for a model without; C is the product.
        feature_names: D names in the order of a row.
        context_names: C names.
    """

    model: str
    event_shape: tuple[int, ...]
    context_shape: tuple[int, ...] | None
    feature_names: tuple[str, ...]
    context_names: tuple[str, ...]

    @property
    def event_size(self) -> int:
        """D, how many numbers a row has."""
        return math.prod(self.event_shape)

    @property
    def context_size(self) -> int:
        """C, how many numbers a row's context has; 0 for a model without context."""
        return 0 if self.context_shape is None else math.prod(self.context_shape)

    def check_rows(self, rows: FloatArray, most: int) -> FloatArray:
        """Rows as ``[N, D]``.

        Args:
            rows: ``[N, D]`` or ``[N, *event_shape]``.
            most: how many rows one request may have.

        Raises:
            InvalidRequest: another width, no row, or too many.
        """
        if rows.ndim and len(rows) == 0:
            raise InvalidRequest.of("NO_ROWS", "rows", "has no row; at least one expected")
        if rows.ndim == 0 or rows.shape[1:] not in ((self.event_size,), self.event_shape):
            raise InvalidRequest.of(
                "WRONG_SHAPE", "rows", self._expected(rows.shape, "N", self.event_shape, "features")
            )
        if len(rows) == 0:
            raise InvalidRequest.of("NO_ROWS", "rows", "has no row; at least one expected")
        if len(rows) > most:
            raise InvalidRequest.of(
                "TOO_MANY_ROWS", "rows", f"has {len(rows)} rows; at most {most} in one request: send it in parts"
            )
        return rows.reshape(len(rows), self.event_size)

    def check_context(self, context: FloatArray | None, count: int) -> FloatArray | None:
        """Contexts as ``[count, C]``, or None for a model without.

        Args:
            context: ``[count, C]``, or ``[1, C]`` to be shared by all.
            count: how many rows or samples the context is for.

        Raises:
            InvalidRequest: missing, superfluous, or of another shape.
        """
        if self.context_shape is None:
            if context is not None:
                raise InvalidRequest.of("UNEXPECTED_CONTEXT", "context", f"given, but {self.model} takes none")
            return None
        if context is None:
            names = _listed(self.context_names)
            raise InvalidRequest.of("MISSING_CONTEXT", "context", f"missing; {self.model} takes one ({names})")
        if context.ndim == 0 or context.shape[1:] not in ((self.context_size,), self.context_shape):
            text = self._expected(context.shape, str(count), self.context_shape, "context columns")
            raise InvalidRequest.of("WRONG_SHAPE", "context", text)
        if len(context) not in (1, count):
            raise InvalidRequest.of(
                "WRONG_SHAPE", "context", f"has {len(context)} rows; {count} expected, or 1 to be shared by all"
            )
        flat: FloatArray = context.reshape(len(context), self.context_size)
        return flat if len(flat) == count else np.repeat(flat, count, axis=0)

    def bad_rows(self, rows: FloatArray, context: FloatArray | None) -> tuple[NDArray[np.bool_] | None, list[RowError]]:
        """Which rows no model can score.

        Returns:
            A mask ``[N]`` of the rows that hold NaN or infinity, or None when there is none, and their descriptions.
        """
        if _finite(rows) and (context is None or _finite(context)):
            return None, []
        bad = np.logical_not(np.isfinite(rows).all(axis=1))
        if context is not None:
            bad = np.logical_or(bad, ~np.isfinite(context).all(axis=1))
        described = np.flatnonzero(bad)[:MAX_ROW_ERRORS]
        return bad, [self._describe(int(index), rows, context) for index in described]

    def _describe(self, row: int, rows: FloatArray, context: FloatArray | None) -> RowError:
        """The first number of the row that is not finite, by the name of its column."""
        for values, names, part in ((rows, self.feature_names, "rows"), (context, self.context_names, "context")):
            if values is None:
                continue
            wrong = np.flatnonzero(~np.isfinite(values[row]))
            if len(wrong):
                column = int(wrong[0])
                name = names[column] if column < len(names) else str(column)
                text = f"{name} (column {column} of {part}) is {values[row, column]}; every value must be finite"
                return RowError(row, "NON_FINITE_VALUE", text, field=name)
        raise ValueError(f"row {row} is finite")

    def _expected(self, given: Sequence[int], count: str, shape: tuple[int, ...], what: str) -> str:
        size, names = math.prod(shape), self.feature_names if what == "features" else self.context_names
        expected = f"[{count}, {size}]"
        if len(shape) > 1:
            expected += f" or [{count}, {', '.join(map(str, shape))}]"
        return f"shape {list(given)} given, {expected} expected: {self.model} takes {size} {what} ({_listed(names)})"


def _finite(values: FloatArray) -> bool:
    """Whether every number is."""
    return int(np.count_nonzero(np.isfinite(values))) == values.size


def missing_columns(expected: Sequence[str], given: Sequence[str]) -> list[Violation]:
    """One violation for each expected column that a table does not have."""
    have = set(given)
    return [
        Violation(name, f"column missing; the table has {_listed(list(given))}")
        for name in expected
        if name not in have
    ]


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Names for an error text, the first few when they are many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... {len(names)} in all"
