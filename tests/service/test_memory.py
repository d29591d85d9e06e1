"""Free memory goes back to the system."""

from __future__ import annotations

import asyncio

import pytest

from service import memory


async def test_it_is_given_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed, often = 0, asyncio.Event()
    loop = asyncio.get_running_loop()

    def trim() -> int:
        nonlocal trimmed
        trimmed += 1
        if trimmed == 3:
            loop.call_soon_threadsafe(often.set)
        return 1

    monkeypatch.setattr(memory, "find_trim", lambda: trim)
    giving = asyncio.create_task(memory.give_back(0.001))
    await often.wait()
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving


async def test_where_the_library_cannot_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "find_trim", lambda: None)
    await memory.give_back()
