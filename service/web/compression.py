"""gzip on the way in and out: bodies inflated no further than they may be, answers deflated when asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.requests import Request

from service.errors import InvalidRequest, UnsupportedContentType, Violation

_EITHER_HEADER = 47
"""zlib's number for gzip's or zlib's own header, whichever is there."""
_GZIP_HEADER = 31
_LEVEL = 1
"""Numbers in text shrink to less than half at the fastest level, and little further at the slowest."""
_STEP_BYTES = 1024 * 1024
_FREE_BYTES = 1024 * 1024
MOST_RATIO = 200
"""How many times its own length a streamed body may have when inflated: rows of numbers stay far below, bombs are
at 1000."""

WORTHWHILE_BYTES = 1024
"""Shorter answers fit into one packet as they are."""

_DEFLATED = ("text/", "application/json", "application/x-ndjson", "application/openmetrics-text")
"""Types whose answers are worth deflating: the bits of floating-point numbers are all but random."""


class Inflater:
    """Inflates a body as it arrives.

    Example:
        >>> inflater = Inflater()
        >>> b"".join(inflater.feed(zlib.compress(b"1,2,3"))), inflater.finish()
        (b'1,2,3', None)
    """

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_EITHER_HEADER)
        self._read = 0
        self._written = 0

    def feed(self, data: bytes, most_ratio: int | None = None) -> Iterator[bytes]:
        """What the data inflate to, in pieces.

        Raises:
            InvalidRequest: the data are not deflated, or inflate to more than ``most_ratio`` times their length.
        """
        self._read += len(data)
        while data:
            if self._stream.eof:
                # gzip files may stand one behind the other, as parallel compressors write them.
                self._stream = zlib.decompressobj(_EITHER_HEADER)
            try:
                piece = self._stream.decompress(data, _STEP_BYTES)
            except zlib.error as error:
                raise _malformed(str(error)) from None
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            self._written += len(piece)
            if most_ratio is not None and self._written > most_ratio * self._read + _FREE_BYTES:
                text = f"{self._read} bytes given that inflate to more than {most_ratio} times their length"
                raise InvalidRequest.of("INFLATES_TOO_FAR", "body", text)
            if piece:
                yield piece

    def finish(self) -> None:
        """See that the end was reached.

        Raises:
            InvalidRequest: the data end before it.
        """
        if not self._stream.eof:
            raise _malformed("ends in the middle")


class Deflater:
    """Deflates an answer as it is written; each piece can be inflated before the next one comes."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_HEADER)

    def part(self, data: bytes) -> bytes:
        """The next piece."""
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def last(self, data: bytes) -> bytes:
        """The last piece, and the end."""
        return self._stream.compress(data) + self._stream.flush(zlib.Z_FINISH)


def inflater(request: Request) -> Inflater | None:
    """What inflates the request's body; None when it comes as it is.

    Raises:
        UnsupportedContentType: its Content-Encoding is none of ours.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Inflater()
    text = f"{encoding} given; bodies are read as they are, or with gzip or deflate"
    raise UnsupportedContentType("UNSUPPORTED_ENCODING", [Violation("Content-Encoding", text)])


def deflates(request: Request, content_type: str) -> bool:
    """Whether an answer of this type is to be deflated."""
    return content_type.startswith(_DEFLATED) and _accepts_gzip(request.headers.get("accept-encoding", ""))


def _accepts_gzip(header: str) -> bool:
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name in ("gzip", "*"):
            return not any(
                parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters
            )
    return False


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest.of("MALFORMED_ENCODING", "body", f"is not in its Content-Encoding: {why}")
