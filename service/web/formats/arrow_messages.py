"""The messages of an Arrow IPC stream, cut out of its bytes as they arrive.

pyarrow reads a stream from something it can block on. A server has bytes that come when they come, so the messages are
told apart here, by the frame that the format gives each of them, and pyarrow reads them one by one. The frame and the
tables in it are those of the Arrow columnar format 1.0, "Encapsulated message format" and ``Message.fbs``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from service.errors import InvalidRequest
from service.web.formats.format import refuse_longer

_CONTINUATION = b"\xff\xff\xff\xff"
_MOST_BUFFERS = 100_000


class Kind(IntEnum):
    """What a message holds, by the number of its header's type."""

    SCHEMA = 1
    DICTIONARY = 2
    RECORD_BATCH = 3


@dataclass(frozen=True, slots=True)
class ArrowMessage:
    """One message with its frame.

    Attributes:
        kind: number of its header's type.
        data: all of its bytes.
        inflated: bytes that its compressed buffers say they have when inflated; 0 when none is compressed.
    """

    kind: int
    data: bytes
    inflated: int


class ArrowMessages:
    """Cuts messages out of a stream.

    Args:
        most: bytes that one message may have.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = bytearray()
        self.ended = False
        """Whether the mark at the stream's end was read."""

    @property
    def rest(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._held)

    def feed(self, data: bytes) -> Iterator[ArrowMessage]:
        """The messages that this part of the stream completes.

        Raises:
            InvalidRequest: it is no Arrow stream, or a message is too long.
        """
        self._held += data
        while not self.ended and len(self._held) >= 8:
            if self._held[:4] != _CONTINUATION:
                raise malformed_arrow("a message does not begin with the mark ff ff ff ff")
            (head_bytes,) = struct.unpack_from("<i", self._held, 4)
            if head_bytes == 0:
                self.ended = True
                return
            if head_bytes < 0:
                raise malformed_arrow("the length of a message is negative")
            refuse_longer(head_bytes, self._most, "a message")
            if len(self._held) < 8 + head_bytes:
                return
            head = bytes(self._held[8 : 8 + head_bytes])
            try:
                message = _Table.root(head)
                kind, body_bytes = message.number(1, "<B"), message.number(3, "<q")
            except (struct.error, IndexError, ValueError):
                raise malformed_arrow("the head of a message cannot be read") from None
            if body_bytes < 0:
                raise malformed_arrow("the length of a message's body is negative")
            refuse_longer(head_bytes + body_bytes, self._most, "a record batch or dictionary")
            size = 8 + head_bytes + body_bytes
            if len(self._held) < size:
                return
            data = bytes(self._held[:size])
            del self._held[:size]
            try:
                inflated = _inflated(message, kind, data[8 + head_bytes :])
            except (struct.error, IndexError, ValueError):
                raise malformed_arrow("the buffers of a message cannot be read") from None
            yield ArrowMessage(kind, data, inflated)


class _Table:
    """A table of a flatbuffer: fields found through a table of offsets."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        if place < 0:
            raise ValueError("an offset that leads out of the buffer")
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        if self._fields < 0:
            raise ValueError("an offset that leads out of the buffer")
        (self._fields_bytes,) = struct.unpack_from("<H", data, self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _offset(self, field: int) -> int:
        """Where a field is; 0 when it has its default."""
        at = 4 + 2 * field
        if at + 2 > self._fields_bytes:
            return 0
        offset: int = struct.unpack_from("<H", self._data, self._fields + at)[0]
        return self._place + offset if offset else 0

    def number(self, field: int, kind: str) -> int:
        offset = self._offset(field)
        return int(struct.unpack_from(kind, self._data, offset)[0]) if offset else 0

    def table(self, field: int) -> _Table | None:
        offset = self._offset(field)
        return _Table(self._data, offset + struct.unpack_from("<I", self._data, offset)[0]) if offset else None

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of structs of two 64-bit numbers."""
        offset = self._offset(field)
        if not offset:
            return
        start = offset + struct.unpack_from("<I", self._data, offset)[0]
        (count,) = struct.unpack_from("<I", self._data, start)
        if count > _MOST_BUFFERS:
            raise ValueError("more buffers than a batch has columns")
        for index in range(count):
            yield struct.unpack_from("<qq", self._data, start + 4 + 16 * index)


def _inflated(message: _Table, kind: int, body: bytes) -> int:
    """How long a batch's compressed buffers are when inflated, by what each says at its beginning."""
    header = message.table(2)
    if kind == Kind.DICTIONARY and header is not None:
        header = header.table(1)
    if kind not in (Kind.DICTIONARY, Kind.RECORD_BATCH) or header is None or header.table(3) is None:
        return 0
    total = 0
    for offset, length in header.pairs(2):
        if length:
            (size,) = struct.unpack_from("<q", body, offset)
            total += max(size, 0)
    return total


def malformed_arrow(why: str) -> InvalidRequest:
    """What a body that is no Arrow stream is answered with."""
    return InvalidRequest.of("MALFORMED_ARROW", "body", f"is no Arrow IPC stream that is read here: {why}")
