"""An engine that fails on demand, in front of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from service.engines.engine import EngineError, ModelKey
from service.engines.inprocess import InProcessEngine


class FaultyEngine(InProcessEngine):
    """The in-process engine with a gate before each call, and a check that may refuse its rows.

    Attributes:
        gate: calls wait here while it is closed.
        waiting: set when a call waits at the closed gate.
        check: called with the rows of each call; what it raises is the call's outcome.
        calls: how many rows each call had.
        loads: the versions that were loaded, in order.
        fail_to_load: versions that cannot be loaded.
        held: the versions whose calls wait at the gate and meet the check; None for all.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.check: Callable[[np.ndarray], None] = lambda rows: None
        self.calls: list[int] = []
        self.loads: list[ModelKey] = []
        self.fail_to_load: set[ModelKey] = set()
        self.held: set[ModelKey] | None = None
        self.sick = False

    @property
    def healthy(self) -> bool:
        return super().healthy and not self.sick

    async def load(self, published):
        key = ModelKey(published.name, published.version)
        self.loads.append(key)
        if key in self.fail_to_load:
            raise EngineError("this version is made not to load")
        await super().load(published)

    async def log_prob(self, key, rows, context):
        self.calls.append(len(rows))
        if self.held is None or key in self.held:
            await self._pass()
            self.check(rows)
        return await super().log_prob(key, rows, context)

    def log_prob_at_once(self, key, rows, context):
        """None, so that every call comes to the gate."""

    async def sample(self, key, draws, context):
        self.calls.append(sum(draw.count for draw in draws))
        if self.held is None or key in self.held:
            await self._pass()
        return await super().sample(key, draws, context)

    async def _pass(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
