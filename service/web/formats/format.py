"""What a content type has to offer, and what several of them are made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
import orjson

from service.errors import InvalidRequest, RowError, ServiceError
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import MAX_ROW_ERRORS, Signature
from service.tensors import FloatArray

Answer_contra = TypeVar("Answer_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows read from a body.

    Attributes:
        rows: ``[N, D]`` or ``[N, *event_shape]``, NaN where a row could not be read.
        context: ``[N, C]``, ``[1, C]`` or None.
        unreadable: why rows could not be read, ascending.
    """

    rows: FloatArray
    context: FloatArray | None
    unreadable: list[RowError] = field(default_factory=list)

    def parts(self, most: int) -> Iterator[Table]:
        """The table cut into parts of at most so many rows, their errors counted from the part's own first row."""
        if len(self.rows) <= most:
            yield self
            return
        for start in range(0, len(self.rows), most):
            stop = start + most
            errors = [replace(error, row=error.row - start) for error in self.unreadable if start <= error.row < stop]
            context = self.context if self.context is None else self.context[start:stop]
            yield Table(self.rows[start:stop], context, errors)


class RowReader(Protocol):
    """Reads a body as it arrives; holds no more of it than the row or the block that is not complete."""

    def feed(self, data: bytes) -> list[Table]:
        """The rows that this part of the body completes.

        Raises:
            InvalidRequest: the body cannot be read.
        """
        ...

    def finish(self) -> list[Table]:
        """The rows that the end of the body completes.

        Raises:
            InvalidRequest: it ends in the middle of something, or there was no row in it.
        """
        ...


class Writer(Protocol[Answer_contra]):
    """Writes a long answer part by part."""

    def head(self) -> bytes:
        """What stands before the first part."""
        ...

    def part(self, answer: Answer_contra) -> bytes:
        """The next part."""
        ...

    def tail(self) -> bytes:
        """What stands after the last part."""
        ...

    def broken(self, error: ServiceError) -> bytes:
        """What stands in place of the parts that do not come, where the type has a way to say so."""
        ...


class Format(Protocol):
    """One content type."""

    content_type: str

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows to score.

        Raises:
            InvalidRequest: the body as a whole cannot be read.
        """
        ...

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """The answer to ``LogProb``."""
        ...

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """The answer to ``Sample``."""
        ...

    def reader(self, signature: Signature, most: int) -> RowReader | None:
        """Reads rows as they arrive; None for a type that can only be read whole.

        Args:
            signature: of the model.
            most: bytes that one row, or one block of the type's own, may have.
        """
        ...

    def score_writer(self, served: ServedModel) -> Writer[Scores] | None:
        """Writes scores part by part; None for a type that can only be written whole."""
        ...

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> Writer[Samples] | None:
        """Writes samples part by part; None for a type that can only be written whole."""
        ...


class StreamedFormat:
    """A content type that is written whole as it is part by part."""

    content_type: str

    def reader(self, signature: Signature, most: int) -> RowReader:
        """Reads rows as they arrive."""
        raise NotImplementedError

    def score_writer(self, served: ServedModel) -> Writer[Scores]:
        """Writes scores part by part."""
        raise NotImplementedError

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> Writer[Samples]:
        """Writes samples part by part."""
        raise NotImplementedError

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows, and contexts where the model takes any."""
        reader = self.reader(signature, most=len(body) + 1)
        return joined([*reader.feed(body), *reader.finish()])

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """The answer to ``LogProb``."""
        return whole(self.score_writer(served), scores)

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """The answer to ``Sample``."""
        return whole(self.sample_writer(served, samples.seed, with_log_prob), samples)


def whole(writer: Writer[Answer_contra], answer: Answer_contra) -> bytes:
    """An answer of one part."""
    return b"".join((writer.head(), writer.part(answer), writer.tail()))


def joined(tables: Sequence[Table]) -> Table:
    """Tables one below the other."""
    if len(tables) == 1:
        return tables[0]
    errors: list[RowError] = []
    above = 0
    for table in tables:
        errors += [replace(error, row=above + error.row) for error in table.unreadable]
        above += len(table.rows)
    contexts = [table.context for table in tables if table.context is not None]
    rows: FloatArray = np.concatenate([table.rows for table in tables])
    return Table(rows, np.concatenate(contexts) if contexts else None, errors[:MAX_ROW_ERRORS])


def table_of(values: FloatArray, signature: Signature, unreadable: list[RowError] | None = None) -> Table:
    """The table of ``values[N, D + C]``, a row's context after its features."""
    width = signature.event_size
    return Table(values[:, :width], values[:, width:] if signature.context_size else None, unreadable or [])


def columns_of(signature: Signature) -> list[str]:
    """Names of a row's features and context, in order."""
    return [*signature.feature_names, *signature.context_names]


def no_rows() -> InvalidRequest:
    """What a body without any row is answered with."""
    return InvalidRequest.of("NO_ROWS", "rows", "has no row; at least one expected")


def refuse_longer(held: int, most: int, what: str) -> None:
    """See that an unfinished row or block is not too long.

    Raises:
        InvalidRequest: it is.
    """
    if held > most:
        text = f"{what} is longer than {most} bytes (the setting max_chunk_bytes)"
        raise InvalidRequest.of("CHUNK_TOO_LARGE", "body", text)


class LineReader:
    r"""The whole lines of a text that arrives in parts.

    Args:
        most: how many bytes a line may have.

    Example:
        >>> lines = LineReader(most=100)
        >>> lines.feed(b"1,2\n3,"), lines.feed(b"4\n"), lines.finish()
        (b'1,2\n', b'3,4\n', b'')
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What is complete now, up to the last line's end."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._rest += data
            refuse_longer(len(self._rest), self._most, "a line")
            return b""
        whole, self._rest = self._rest + data[:end], data[end:]
        return whole

    def finish(self) -> bytes:
        """The last line, when nothing ends it."""
        rest, self._rest = self._rest, b""
        return rest


def number_texts(values: FloatArray, quote: bytes = b"") -> list[bytes]:
    """Each number of ``values[N]`` in the fewest digits that read back to the same bits.

    What is not finite is written as ``NaN``, ``Infinity`` and ``-Infinity`` between the given quotes.

    Example:
        >>> number_texts(np.array([0.1, -np.inf], np.float32), quote=b'"')
        [b'0.1', b'"-Infinity"']
    """
    if not len(values):
        return []
    texts = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    for index in np.flatnonzero(~np.isfinite(values)):
        value = values[index]
        name = b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity"
        texts[index] = quote + name + quote
    return texts
