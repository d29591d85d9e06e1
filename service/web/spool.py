"""Answers that a client does not read yet, kept on disk while it still sends.

Many HTTP clients send all of a body before they read anything of the answer. An answer that is written while the body
arrives would fill the buffers between the two, and both would wait for each other for ever.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque

from service.errors import Unavailable

_MEMORY_BYTES = 1024 * 1024
"""What waits in memory; the disk is touched only for clients that do not keep up."""
_READ_BYTES = 1024 * 1024


class Spool:
    """Bytes between one who makes them and one who takes them.

    Args:
        most: bytes that may wait; who makes more has to wait then.

    Example:
        >>> async def main():
        ...     with Spool(most=1000) as spool:
        ...         await spool.put(b"1,2,3")
        ...         spool.finish()
        ...         return [await spool.get(), await spool.get()]
        >>> asyncio.run(main())
        [b'1,2,3', None]
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._file = -1
        self._writing = False
        self._written = self._read = 0
        self._finished = False
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self.total = 0
        """Bytes put in so far: whether something moves can be told from it."""

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    async def put(self, data: bytes) -> None:
        """Have the data taken in their turn; returns at once while there is room.

        Raises:
            Unavailable: the disk is full.
        """
        while self._waiting and self._waiting + len(data) > self._most:
            self._room.clear()
            await self._room.wait()
        # Once something waits on disk, what follows has to wait behind it.
        if self._written == self._read and self._memory_bytes + len(data) <= _MEMORY_BYTES:
            self._memory.append(data)
            self._memory_bytes += len(data)
        else:
            await self._write(data)
        self.total += len(data)
        self._news.set()

    def finish(self) -> None:
        """No more comes."""
        self._finished = True
        self._news.set()

    async def get(self) -> bytes | None:
        """What comes next; None after the last of it."""
        while not self._waiting:
            if self._finished:
                return None
            self._news.clear()
            await self._news.wait()
        if self._memory:
            data = self._memory.popleft()
            self._memory_bytes -= len(data)
        else:
            data = await self._fetch()
        self._room.set()
        return data

    @property
    def _waiting(self) -> int:
        return self._memory_bytes + self._written - self._read

    async def _write(self, data: bytes) -> None:
        if self._file < 0:
            self._file, name = tempfile.mkstemp(prefix="density-answer-")
            os.unlink(name)
        self._writing = True
        try:
            await asyncio.to_thread(_write_all, self._file, data, self._written)
        except OSError as error:
            text = f"an answer that its client does not read yet cannot be kept: {error.strerror}"
            raise Unavailable("SPOOL_FULL", text, retry_after_seconds=1.0) from None
        finally:
            self._writing = False
        self._written += len(data)

    async def _fetch(self) -> bytes:
        size = min(_READ_BYTES, self._written - self._read)
        data = await asyncio.to_thread(os.pread, self._file, size, self._read)
        self._read += len(data)
        if self._read == self._written and not self._writing:
            # All of it was taken: its place on disk is given back, and memory is used again.
            self._read = self._written = 0
            os.ftruncate(self._file, 0)
        return data


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count
