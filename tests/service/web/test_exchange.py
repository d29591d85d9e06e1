"""A client that leaves in the very moment its answer is ready is a client that left, and nothing else is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from service.errors import RequestCancelled
from service.web.exchange import while_connected


def request(leaving: asyncio.Event) -> Request:
    async def receive() -> dict[str, Any]:
        await leaving.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


@pytest.mark.parametrize("turns", range(6))
async def test_leaving_and_the_answer_at_once(turns: int) -> None:
    leaving, ready = asyncio.Event(), asyncio.Event()

    async def answer() -> int:
        await ready.wait()
        return 7

    async def ask() -> Any:
        try:
            outcome: Any = await while_connected(request(leaving), answer())
        except RequestCancelled as error:
            outcome = error
        # Where the task waits next, it is not cancelled.
        for _ in range(10):
            await asyncio.sleep(0)
        assert asyncio.current_task().cancelling() == 0
        return outcome

    asking = asyncio.create_task(ask())
    for _ in range(5):
        await asyncio.sleep(0)
    leaving.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    ready.set()
    outcome = await asking
    assert outcome == 7 or isinstance(outcome, RequestCancelled)
