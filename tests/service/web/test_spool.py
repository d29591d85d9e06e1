"""Answers kept for a client that reads late."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from service.errors import Unavailable
from service.web.spool import Spool

MEBIBYTE = 1024 * 1024


async def drain(spool: Spool) -> bytes:
    parts = []
    while (part := await spool.get()) is not None:
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("sizes", [[10, 20], [MEBIBYTE] * 5, [700_000, 700_000, 10, 3 * MEBIBYTE, 5], [0, 3]])
async def test_all_of_it_comes_out_in_order_whoever_is_first(sizes: list[int]) -> None:
    random = np.random.default_rng(0)
    parts = [random.bytes(size) for size in sizes]
    with Spool(most=100 * MEBIBYTE) as spool:
        for part in parts:
            await spool.put(part)
        spool.finish()
        assert await drain(spool) == b"".join(parts)
    with Spool(most=100 * MEBIBYTE) as spool:
        taking = asyncio.create_task(drain(spool))
        for part in parts:
            await spool.put(part)
        spool.finish()
        assert await taking == b"".join(parts)


async def test_parts_put_in_and_taken_in_turns() -> None:
    random = np.random.default_rng(1)
    given, taken = [], []
    with Spool(most=100 * MEBIBYTE) as spool:

        async def give() -> None:
            for _ in range(300):
                given.append(random.bytes(int(random.integers(1, 300_000))))
                await spool.put(given[-1])
                if random.random() < 0.3:
                    await asyncio.sleep(0)
            spool.finish()

        giving = asyncio.create_task(give())
        while (part := await spool.get()) is not None:
            taken.append(part)
            if len(taken) % 7 == 0:
                await asyncio.sleep(0.001)
        await giving
    assert b"".join(taken) == b"".join(given)


async def test_who_makes_more_than_may_wait_has_to_wait() -> None:
    with Spool(most=3 * MEBIBYTE) as spool:
        for _ in range(3):
            await spool.put(b"x" * MEBIBYTE)
        fourth = asyncio.create_task(spool.put(b"y" * MEBIBYTE))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not fourth.done()
        await spool.get()
        await fourth
        spool.finish()
        assert await drain(spool) == b"x" * 2 * MEBIBYTE + b"y" * MEBIBYTE


async def test_a_disk_that_is_full_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with Spool(most=100 * MEBIBYTE) as spool:
        await spool.put(b"x" * MEBIBYTE)
        with pytest.raises(Unavailable, match="cannot be kept: No space left on device"):
            await spool.put(b"y")
