"""``application/vnd.apache.arrow.stream``: record batches with a column for each feature in, a log_prob column out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from service.errors import InvalidRequest, RowError, ServiceError, Violation
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import MAX_ROW_ERRORS, Signature, missing_columns
from service.tensors import FloatArray
from service.web.formats.arrow_messages import ArrowMessage, ArrowMessages, Kind, malformed_arrow
from service.web.formats.format import StreamedFormat, Table, columns_of, no_rows, refuse_longer, table_of

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class ArrowFormat(StreamedFormat):
    """An Arrow IPC stream, its columns matched to features by name; a null is a row's own error."""

    content_type = "application/vnd.apache.arrow.stream"

    def reader(self, signature: Signature, most: int) -> _Reader:
        """Reads record batches as they arrive."""
        return _Reader(signature, most)

    def score_writer(self, served: ServedModel) -> _Scores:
        """Writes batches of ``log_prob`` and ``error``, which is null for a row with an answer."""
        return _Scores(served)

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> _Samples:
        """Writes batches with a column for each feature, and ``log_prob`` when asked for."""
        return _Samples(served, seed, with_log_prob)


class _Reader:
    def __init__(self, signature: Signature, most: int) -> None:
        self._signature = signature
        self._wanted = columns_of(signature)
        self._most = most
        self._messages = ArrowMessages(most)
        self._before = b""
        """The schema and the dictionaries so far: what has to stand before a batch for it to be read."""
        self._fields: list[int] = []
        self._rows = 0

    def feed(self, data: bytes) -> list[Table]:
        tables = [self._take(message) for message in self._messages.feed(data)]
        return [table for table in tables if table is not None]

    def finish(self) -> list[Table]:
        if not self._before and not self._messages.rest:
            raise malformed_arrow("it has no schema")
        if self._messages.rest and not self._messages.ended:
            text = f"ends in the middle of a message, {self._messages.rest} bytes after the {self._rows} rows before it"
            raise InvalidRequest.of("TRUNCATED", "body", text)
        if not self._rows:
            raise no_rows()
        return []

    def _take(self, message: ArrowMessage) -> Table | None:
        refuse_longer(message.inflated, self._most, "a record batch, when inflated,")
        if message.kind == Kind.SCHEMA:
            if self._before:
                raise malformed_arrow("it has a second schema")
            self._before = message.data
            self._fields = self._chosen()
            return None
        if not self._before:
            raise malformed_arrow("it has no schema before its first batch")
        if message.kind == Kind.DICTIONARY:
            self._before += message.data
            refuse_longer(len(self._before), self._most, "all dictionaries together")
            return None
        if message.kind != Kind.RECORD_BATCH:
            raise malformed_arrow(f"it has a message of kind {message.kind}, which is neither schema nor batch")
        return self._read(message)

    def _chosen(self) -> list[int]:
        """Which of the stream's columns are the features and the context, in their order."""
        try:
            schema = pa.ipc.open_stream(self._before + _END).schema
            names = schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise malformed_arrow(_first_line(error)) from None
        violations = missing_columns(self._wanted, names)
        violations += [Violation(name, "there twice") for name in self._wanted if names.count(name) > 1]
        if violations:
            raise InvalidRequest("MISSING_COLUMN", violations)
        fields = [names.index(name) for name in self._wanted]
        for name, field in zip(self._wanted, fields, strict=True):
            kind = schema.field(field).type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                violations.append(Violation(name, f"column of {kind} given; float32 or float64 expected"))
        if violations:
            raise InvalidRequest("WRONG_TYPE", violations)
        return fields

    def _read(self, message: ArrowMessage) -> Table | None:
        """A batch's rows; only the wanted columns of it are looked at."""
        options = pa.ipc.IpcReadOptions(included_fields=sorted(set(self._fields)), use_threads=False)
        try:
            batch = pa.ipc.open_stream(self._before + message.data, options=options).read_next_batch()
            columns = [batch.column(batch.schema.get_field_index(name)) for name in self._wanted]
            for column in columns:
                column.validate(full=True)
            values = np.empty((batch.num_rows, len(columns)), _dtype(columns))
            for index, column in enumerate(columns):
                values[:, index] = column.to_numpy(zero_copy_only=False)
        except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
            raise malformed_arrow(_first_line(error)) from None
        if not len(values):
            return None
        self._rows += len(values)
        return table_of(values, self._signature, self._nulls(columns, values))

    def _nulls(self, columns: list[pa.Array], values: FloatArray) -> list[RowError]:
        """An error for each row with a null, which becomes NaN."""
        errors: dict[int, RowError] = {}
        for index, (name, column) in enumerate(zip(self._wanted, columns, strict=True)):
            if column.null_count:
                rows = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
                values[rows, index] = np.nan
                for row in map(int, rows[:MAX_ROW_ERRORS]):
                    text = f"{name} is null; a number expected"
                    errors.setdefault(row, RowError(row, "MALFORMED_ROW", text, field=name))
        return [errors[row] for row in sorted(errors)[:MAX_ROW_ERRORS]]


class _Writer:
    """Batches of one schema, whose metadata say which model answers."""

    def __init__(self, fields: list[pa.Field], **metadata: str) -> None:
        self._schema = pa.schema(fields, metadata=metadata)

    def head(self) -> bytes:
        return bytes(self._schema.serialize())

    def tail(self) -> bytes:
        return _END

    def broken(self, error: ServiceError) -> bytes:
        return b""

    def _batch(self, columns: list[pa.Array]) -> bytes:
        return bytes(pa.record_batch(columns, schema=self._schema).serialize())


class _Scores(_Writer):
    def __init__(self, served: ServedModel) -> None:
        fields = [pa.field("log_prob", _type(served)), pa.field("error", pa.string())]
        super().__init__(fields, **_named(served))

    def part(self, answer: Scores) -> bytes:
        errors = pa.nulls(len(answer.log_prob), pa.string())
        if answer.row_errors:
            texts: list[str | None] = [None] * len(answer.log_prob)
            for error in answer.row_errors:
                texts[error.row] = error.message
            errors = pa.array(texts, pa.string())
        return self._batch([pa.array(answer.log_prob, from_pandas=False), errors])


class _Samples(_Writer):
    def __init__(self, served: ServedModel, seed: int, with_log_prob: bool) -> None:
        names = [*served.signature.feature_names, *(["log_prob"] if with_log_prob else [])]
        super().__init__([pa.field(name, _type(served)) for name in names], **_named(served), seed=str(seed))
        self._with_log_prob = with_log_prob

    def part(self, answer: Samples) -> bytes:
        columns = list(answer.samples.reshape(len(answer.samples), -1).T)
        if self._with_log_prob:
            columns.append(answer.log_prob)
        return self._batch([pa.array(np.ascontiguousarray(column), from_pandas=False) for column in columns])


def _dtype(columns: list[pa.Array]) -> type[np.float32] | type[np.float64]:
    """float32 when every column is no more than that."""
    return np.float32 if all(column.type in (pa.float32(), pa.float16()) for column in columns) else np.float64


def _type(served: ServedModel) -> pa.DataType:
    return pa.from_numpy_dtype(served.dtype)


def _named(served: ServedModel) -> dict[str, str]:
    return {"model": served.key.name, "version": str(served.key.version)}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
