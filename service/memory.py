"""Memory that is free and that the allocator keeps, given back to the system now and then."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

EVERY_SECONDS = 30.0


def find_trim() -> Callable[[], object] | None:
    """What makes the C library give free memory back; None where it has no such function.

    Buffers of messages of many sizes, allocated on one thread and freed on another, leave holes in glibc's heaps, which
    it returns by itself at their very ends alone.

    Example:
        >>> trim = find_trim()
        >>> trim is None or trim() in (0, 1)
        True
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: trim(0)


async def give_back(seconds: float = EVERY_SECONDS) -> None:
    """Give memory back as long as the task runs, in a thread, for it takes milliseconds."""
    trim = find_trim()
    while trim is not None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(trim)
