"""What the parent and a gateway say to each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any, Self

_LONGEST_BYTES = 1024 * 1024

Message = dict[str, Any]
"""What is said, by topic; JSON-able values."""


class Channel:
    """One end of a pair of sockets, over which messages go as lines of JSON.

    It ends when the process at the other end does, in whatever way.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """The channel of one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LONGEST_BYTES))

    def send(self, message: Message) -> None:
        """Say something; what the other end does not live to read is lost."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Message | None:
        """What is said next; None at the end."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return dict(json.loads(line)) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Say nothing more, once everything is said."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
