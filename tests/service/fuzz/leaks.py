"""Whether a process grows with the cases it has been through."""

from __future__ import annotations

import gc

import psutil

LEAKED_BYTES = 32 * 1024**2
"""What may come on top between a fifth of the cases and all of them: caches that fill, fragments."""


class Watch:
    """Memory after the first fifth of the cases against memory after all.

    Args:
        cases: how many there will be.
    """

    def __init__(self, cases: int) -> None:
        self._first = max(1, cases // 5)
        self._before: int | None = None
        self._done = 0

    def tick(self) -> None:
        """A case is over."""
        self._done += 1
        if self._done == self._first:
            self._before = _memory()

    def check(self) -> None:
        """All are over, and the process has not grown."""
        assert self._before is not None
        grown = _memory() - self._before
        assert grown < LEAKED_BYTES, f"{grown / 1024**2:.1f} MiB more after {self._done} cases than after {self._first}"


def _memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
