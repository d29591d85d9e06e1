"""``text/csv``: columns matched to features by name, or in order where there is no header; ``log_prob,error`` out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from service.errors import InvalidRequest, RowError, ServiceError, Violation
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import MAX_ROW_ERRORS, Signature, missing_columns
from service.tensors import FloatArray
from service.web.formats.format import LineReader, StreamedFormat, Table, columns_of, number_texts, table_of

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_THREADED_BYTES = 4 * 1024**2
"""Below this, starting pyarrow's threads costs more than they bring."""
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class CsvFormat(StreamedFormat):
    """Comma-separated values in UTF-8.

    A malformed row is answered alone: a NaN and its error at its place.
    """

    content_type = "text/csv"

    def reader(self, signature: Signature, most: int) -> _Reader:
        """Reads rows as they arrive; columns that are no feature's or context's are ignored."""
        return _Reader(signature, most)

    def score_writer(self, served: ServedModel) -> _Scores:
        """Writes one line for each row, with its error when it has one."""
        return _Scores()

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> _Samples:
        """Writes one line for each sample, under the features' names, ``log_prob`` last when asked for."""
        return _Samples(list(served.signature.feature_names), with_log_prob)


class _Reader:
    def __init__(self, signature: Signature, most: int) -> None:
        self._signature = signature
        self._wanted = columns_of(signature)
        self._lines = LineReader(most)
        self._columns: list[str] = []
        self._above = 0
        self._rows = 0

    def feed(self, data: bytes) -> list[Table]:
        return self._read(self._lines.feed(data))

    def finish(self) -> list[Table]:
        tables = self._read(self._lines.finish())
        if not self._columns:
            raise InvalidRequest.of("NO_ROWS", "body", "is empty; expected a header and at least one row")
        if not self._rows:
            raise InvalidRequest.of("NO_ROWS", "rows", "has no row below its header; at least one expected")
        return tables

    def _read(self, text: bytes) -> list[Table]:
        """The rows of some whole lines; the first line of all may be the header."""
        if not self._columns:
            body = text.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n")
            if not body:
                self._above += text.count(b"\n")
                return []
            self._columns, rows = _columns(body, self._wanted)
            self._above += text.count(b"\n") - rows.count(b"\n")
            text = rows
        first_line, self._above = self._above + 1, self._above + text.count(b"\n")
        if not text.strip(b"\r\n"):
            return []
        errors: list[RowError] = []
        values = _read_fast(text, self._columns, self._wanted)
        if values is None:
            values, errors = _read_rows(text, self._columns, self._wanted, first_line)
        self._rows += len(values)
        return [table_of(values, self._signature, errors)] if len(values) else []


class _Csv:
    """Lines under a header; an error in place of the missing ones is a line without a number."""

    def tail(self) -> bytes:
        return b""

    def broken(self, error: ServiceError) -> bytes:
        return b"\n" + _line("", f"the answer ends here: {error.code} {error.reason}: {error.message}") + b"\n"


class _Scores(_Csv):
    def head(self) -> bytes:
        return b"log_prob,error\n"

    def part(self, answer: Scores) -> bytes:
        lines = [text + b"," for text in number_texts(answer.log_prob)]
        if answer.row_errors:
            if len(answer.row_errors) == MAX_ROW_ERRORS:
                for row in np.flatnonzero(np.isnan(answer.log_prob)):
                    lines[row] = _line("NaN", f"not described: only the first {MAX_ROW_ERRORS} errors are")
            for error in answer.row_errors:
                lines[error.row] = _line("NaN", error.message)
        return b"\n".join((*lines, b""))


class _Samples(_Csv):
    def __init__(self, names: list[str], with_log_prob: bool) -> None:
        self._names = [*names, "log_prob"] if with_log_prob else names
        self._with_log_prob = with_log_prob

    def head(self) -> bytes:
        return _line(*self._names) + b"\n"

    def part(self, answer: Samples) -> bytes:
        columns = list(answer.samples.reshape(len(answer.samples), -1).T)
        if self._with_log_prob:
            columns.append(answer.log_prob)
        texts = [number_texts(column) for column in columns]
        return b"\n".join((*map(b",".join, zip(*texts, strict=True)), b""))


def _columns(body: bytes, wanted: Sequence[str]) -> tuple[list[str], bytes]:
    """Names of the columns, and the part of the body that holds rows.

    Raises:
        InvalidRequest: a wanted column is missing or there twice, or a table without header has another width.
    """
    first, _, rest = body.partition(b"\n")
    try:
        cells = [cell.strip() for cell in next(csv.reader([first.decode("utf-8").rstrip("\r")]), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest.of("MALFORMED_CSV", "body", f"its first line is not CSV in UTF-8: {error}") from None
    if not any(cells):
        raise InvalidRequest.of("NO_ROWS", "body", "is empty; expected a header and at least one row")
    if cells != list(wanted) and all(_number(cell) is not None for cell in cells):
        if len(cells) != len(wanted):
            text = f"has no header and {len(cells)} columns; {len(wanted)} expected: {', '.join(wanted)}"
            raise InvalidRequest.of("WRONG_SHAPE", "body", text)
        return list(wanted), body
    violations = missing_columns(wanted, cells)
    for delimiter, called in _OTHER_DELIMITERS.items():
        if violations and first.count(delimiter.encode()) >= min(len(cells), max(1, len(wanted) - 1)):
            text = f"has {called} between its columns; commas expected, and points in decimal numbers"
            raise InvalidRequest.of("MALFORMED_CSV", "body", text)
    violations += [Violation(name, "there twice in the header") for name in wanted if cells.count(name) > 1]
    if violations:
        raise InvalidRequest("MISSING_COLUMN", violations)
    return cells, rest


def _read_fast(data: bytes, columns: Sequence[str], wanted: Sequence[str]) -> FloatArray | None:
    """All rows at once, ``[N, len(wanted)]``; None when any of them needs a closer look."""
    # Columns that are not wanted may be called anything, also twice the same.
    names = [name if name in wanted else f"\0{index}" for index, name in enumerate(columns)]
    try:
        table = pa_csv.read_csv(
            pa.py_buffer(data),
            read_options=pa_csv.ReadOptions(use_threads=len(data) > _THREADED_BYTES, column_names=names),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(wanted), column_types=dict.fromkeys(wanted, pa.float64()), null_values=[""]
            ),
        )
    except pa.ArrowInvalid:
        return None
    if any(column.null_count for column in table.columns):
        return None
    if b'"' in data and table.num_rows != sum(map(bool, data.splitlines())):
        # A line break between quotes, which would be in one row or between two, depending on where a block ends.
        return None
    values = np.empty((table.num_rows, len(wanted)), np.float64)
    for index, column in enumerate(table.columns):
        values[:, index] = column.to_numpy()
    return values


def _read_rows(
    data: bytes, columns: Sequence[str], wanted: Sequence[str], first_line: int
) -> tuple[FloatArray, list[RowError]]:
    """Row by row, NaN where one is malformed, and what is wrong with each of those."""
    places = [columns.index(name) for name in wanted]
    rows: list[list[float]] = []
    errors: list[RowError] = []
    nothing = [float("nan")] * len(wanted)
    for number, line in enumerate(data.splitlines(), first_line):
        if not line:
            continue
        try:
            rows.append(_row(line, columns, places))
        except (ValueError, csv.Error) as error:
            if len(errors) < MAX_ROW_ERRORS:
                errors.append(RowError(len(rows), "MALFORMED_ROW", f"line {number}: {error}"))
            rows.append(nothing)
    return np.asarray(rows, np.float64).reshape(len(rows), len(wanted)), errors


def _row(line: bytes, columns: Sequence[str], places: Sequence[int]) -> list[float]:
    """The wanted numbers of one line; each line stands alone, so an open quote spoils no other."""
    # What is no UTF-8 is no number either, and does not matter in a column that nobody wants.
    cells = next(csv.reader([line.decode("utf-8", "replace")]))
    if len(cells) != len(columns):
        broken = "; a quote is open at its end, and a row is one line" if line.count(b'"') % 2 else ""
        raise ValueError(f"{len(cells)} columns given; {len(columns)} expected{broken}")
    values = []
    for place in places:
        value = _number(cells[place])
        if value is None:
            given = repr(cells[place][:40]) if cells[place].strip() else "empty"
            raise ValueError(f"{columns[place]} is {given}; a number expected")
        values.append(value)
    return values


def _number(cell: str) -> float | None:
    """The number a cell holds; None for any other text, also for ``1_000``, which only Python reads as one."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _line(*cells: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue().encode()
