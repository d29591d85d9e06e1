"""``text/csv``: columns matched to features by name, or in order where there is no header; ``log_prob,error`` out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from service.errors import InvalidRequest, RowError, Violation
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import MAX_ROW_ERRORS, Signature, missing_columns
from service.tensors import FloatArray
from service.web.formats.format import Table, number_texts

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_THREADED_BYTES = 4 * 1024**2
"""Below this, starting pyarrow's threads costs more than they bring."""


class CsvFormat:
    """Comma-separated values in UTF-8.

    A malformed row is answered alone: a NaN and its error at its place.
    """

    content_type = "text/csv"

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows, and contexts where the model takes any; columns of other names are ignored."""
        wanted = [*signature.feature_names, *signature.context_names]
        columns, data = _columns(body.removeprefix(_BYTE_ORDER_MARK), wanted)
        unreadable: list[RowError] = []
        values = _read_fast(data, columns, wanted)
        if values is None:
            above = body.count(b"\n") - data.count(b"\n")
            values, unreadable = _read_rows(data, columns, wanted, first_line=1 + above)
        width = signature.event_size
        return Table(values[:, :width], values[:, width:] if signature.context_size else None, unreadable)

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """One line for each row, with its error when it has one."""
        lines = [text + b"," for text in number_texts(scores.log_prob)]
        if scores.row_errors:
            if len(scores.row_errors) == MAX_ROW_ERRORS:
                for row in np.flatnonzero(np.isnan(scores.log_prob)):
                    lines[row] = _line("NaN", f"not described: only the first {MAX_ROW_ERRORS} errors are")
            for error in scores.row_errors:
                lines[error.row] = _line("NaN", error.message)
        return b"\n".join((b"log_prob,error", *lines, b""))

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """One line for each sample, under the features' names, with ``log_prob`` as last column when asked for."""
        flat = samples.samples.reshape(len(samples.samples), -1)
        names, columns = list(served.signature.feature_names), list(flat.T)
        if with_log_prob:
            names, columns = [*names, "log_prob"], [*columns, samples.log_prob]
        texts = [number_texts(column) for column in columns]
        return b"\n".join((_line(*names), *map(b",".join, zip(*texts, strict=True)), b""))


def _columns(body: bytes, wanted: Sequence[str]) -> tuple[list[str], bytes]:
    """Names of the columns, and the part of the body that holds rows.

    Raises:
        InvalidRequest: a wanted column is missing or there twice, or a table without header has another width.
    """
    body = body.lstrip(b"\r\n")
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
    violations += [Violation(name, "there twice in the header") for name in wanted if cells.count(name) > 1]
    if violations:
        raise InvalidRequest("MISSING_COLUMN", violations)
    if not rest.strip():
        raise InvalidRequest.of("NO_ROWS", "rows", "has no row below its header; at least one expected")
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
    cells = next(csv.reader([line.decode("utf-8")]))
    if len(cells) != len(columns):
        raise ValueError(f"{len(cells)} columns given; {len(columns)} expected")
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
