"""``application/x-ndjson``: a row on each line, as ``[1, 2]`` or by name as ``{"a": 1, "b": 2}``; one answer a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from service.errors import RowError, ServiceError
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import MAX_ROW_ERRORS, Signature
from service.tensors import FloatArray
from service.web.answers import error_value
from service.web.formats.format import LineReader, StreamedFormat, Table, columns_of, no_rows, number_texts, table_of

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class NdjsonFormat(StreamedFormat):
    """JSON, line by line; a malformed line is answered alone, with NaN and its error at its place."""

    content_type = "application/x-ndjson"

    def reader(self, signature: Signature, most: int) -> _Reader:
        """Reads rows as they arrive."""
        return _Reader(signature, most)

    def score_writer(self, served: ServedModel) -> _Scores:
        """Writes ``{"log_prob": -1.5}`` for each row, with ``error`` where there is none."""
        return _Scores()

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> _Samples:
        """Writes ``{"a": 1.0, "b": 2.0}`` for each sample, with its ``log_prob`` when asked for."""
        return _Samples(list(served.signature.feature_names), with_log_prob)


class _Reader:
    def __init__(self, signature: Signature, most: int) -> None:
        self._signature = signature
        self._columns = columns_of(signature)
        self._lines = LineReader(most)
        self._above = 0
        self._rows = 0

    def feed(self, data: bytes) -> list[Table]:
        return self._read(self._lines.feed(data))

    def finish(self) -> list[Table]:
        tables = self._read(self._lines.finish())
        if not self._rows:
            raise no_rows()
        return tables

    def _read(self, text: bytes) -> list[Table]:
        lines = text.split(b"\n")
        above, self._above = self._above, self._above + len(lines) - 1
        errors: list[RowError] = []
        values = self._fast(lines)
        if values is None:
            values, errors = self._row_by_row(lines, above + 1)
        self._rows += len(values)
        return [table_of(values, self._signature, errors)] if len(values) else []

    def _fast(self, lines: Sequence[bytes]) -> FloatArray | None:
        """All lines at once; None when any of them needs a closer look."""
        texts = [line for line in map(bytes.strip, lines) if line]
        # So that no row reaches over a line's end, and each line is one value when there are as many values as lines.
        if not all(text.startswith((b"[", b"{")) and text.endswith((b"]", b"}")) for text in texts):
            return None
        whole = b"[" + b",".join(texts) + b"]"
        if b"true" in whole or b"false" in whole:
            # Among numbers, numpy would take them for 1 and 0.
            return None
        try:
            rows = orjson.loads(whole)
            if rows and isinstance(rows[0], dict):
                rows = [[row[name] for name in self._columns] for row in rows]
            values = np.asarray(rows)
        except (ValueError, KeyError, TypeError):
            return None
        if not rows:
            return np.empty((0, len(self._columns)))
        complete = values.shape == (len(texts), len(self._columns))
        return values.astype(np.float64) if complete and values.dtype.kind in "fiu" else None

    def _row_by_row(self, lines: Sequence[bytes], first_line: int) -> tuple[FloatArray, list[RowError]]:
        rows: list[list[float]] = []
        errors: list[RowError] = []
        nothing = [math.nan] * len(self._columns)
        for number, line in enumerate(lines, first_line):
            if not line.strip():
                continue
            try:
                rows.append(self._row(line))
            except ValueError as error:
                if len(errors) < MAX_ROW_ERRORS:
                    errors.append(RowError(len(rows), "MALFORMED_ROW", f"line {number}: {error}"))
                rows.append(nothing)
        return np.asarray(rows, np.float64).reshape(len(rows), len(self._columns)), errors

    def _row(self, line: bytes) -> list[float]:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from None
        if isinstance(value, dict):
            missing = [name for name in self._columns if name not in value]
            if missing:
                raise ValueError(f"{missing[0]} is missing; a row is {', '.join(self._columns[:8])}")
            value = [value[name] for name in self._columns]
        if not isinstance(value, list):
            raise ValueError(f"{orjson.dumps(value).decode()[:40]} given; a list of numbers or an object expected")
        if len(value) != len(self._columns):
            raise ValueError(f"{len(value)} values given; {len(self._columns)} expected")
        return [_number(item, name) for item, name in zip(value, self._columns, strict=True)]


def _number(value: Any, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    raise ValueError(f"{name} is {orjson.dumps(value).decode()[:40]}; a number expected")


class _Lines:
    """Lines need nothing around them; an error in place of the missing ones is a line of its own."""

    def head(self) -> bytes:
        return b""

    def tail(self) -> bytes:
        return b""

    def broken(self, error: ServiceError) -> bytes:
        return orjson.dumps(error_value(error)) + b"\n"


class _Scores(_Lines):
    def part(self, answer: Scores) -> bytes:
        lines = [b'{"log_prob":' + text + b"}" for text in number_texts(answer.log_prob, b'"')]
        for error in answer.row_errors:
            described = {"log_prob": "NaN", "error": {"reason": error.reason, "message": error.message}}
            lines[error.row] = orjson.dumps(described)
        return b"\n".join((*lines, b""))


class _Samples(_Lines):
    def __init__(self, names: list[str], with_log_prob: bool) -> None:
        self._with_log_prob = with_log_prob
        self._keys = [orjson.dumps(name) + b":" for name in [*names, *(["log_prob"] if with_log_prob else [])]]

    def part(self, answer: Samples) -> bytes:
        columns = list(answer.samples.reshape(len(answer.samples), -1).T)
        if self._with_log_prob:
            columns.append(answer.log_prob)
        members = [
            [key + text for text in number_texts(column, b'"')] for key, column in zip(self._keys, columns, strict=True)
        ]
        return b"".join(b"{" + b",".join(row) + b"}\n" for row in zip(*members, strict=True))
