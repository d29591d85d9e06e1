"""Scores on a shadow version what the default version has answered, and counts the differences."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import NamedTuple

from service.engines.engine import EngineError
from service.metrics import Metrics
from service.registry import ModelRegistry, ServedModel
from service.residency import Residency
from service.tensors import FloatArray, differences

log = logging.getLogger(__name__)

MAX_WAITING_ROWS = 16384
"""Answered rows that may wait to be scored again; what is more is not compared."""

CHUNK_ROWS = 256
"""Rows of one engine call, which is the longest that a request which comes meanwhile may have to wait for a shadow."""


class _Answered(NamedTuple):
    """Rows that the default version has answered."""

    served: ServedModel
    shadow: ServedModel
    rows: FloatArray
    context: FloatArray | None
    log_prob: FloatArray


class ShadowScorer:
    """Compares in the background, one small engine call at a time, and only while no request waits for the model.

    What it computes is never answered, and nothing that goes wrong with it reaches a caller.

    Args:
        registry: knows each model's shadow version.
        residency: loads a shadow again that was unloaded to save memory.
        metrics: differences are counted there.
        timeout_seconds: how long the engine may take for one call.
    """

    def __init__(self, registry: ModelRegistry, residency: Residency, metrics: Metrics, timeout_seconds: float) -> None:
        self._registry = registry
        self._residency = residency
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds
        self._waiting: deque[_Answered] = deque()
        self._waiting_rows = 0
        self._task: asyncio.Task[None] | None = None

    def offer(self, served: ServedModel, rows: FloatArray, context: FloatArray | None, log_prob: FloatArray) -> None:
        """Have rows compared, if their model has a shadow and there is room; returns at once.

        Args:
            served: the version that answered; only the default version's answers are compared.
            rows: ``[N, D]``, finite.
            context: ``[N, C]`` or None.
            log_prob: the answer, ``[N]``.
        """
        shadow = self._registry.shadow(served.key.name)
        if shadow is None or self._registry.default(served.key.name) is not served:
            return
        room = 0 if served.log_prob.queue_rows else MAX_WAITING_ROWS - self._waiting_rows
        taken = min(len(rows), room)
        if taken < len(rows):
            self._metrics.not_compared(shadow.key, "dropped", len(rows) - taken)
        if not taken:
            return
        part = None if context is None else context[:taken]
        self._waiting.append(_Answered(served, shadow, rows[:taken], part, log_prob[:taken]))
        self._waiting_rows += taken
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def idle(self) -> None:
        """Wait until everything offered is compared or dropped."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Compare nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                answered = self._waiting.popleft()
                try:
                    with answered.shadow.lease():
                        await self._compare(answered)
                finally:
                    self._waiting_rows -= len(answered.rows)
        finally:
            self._task = None

    async def _compare(self, answered: _Answered) -> None:
        shadow, count = answered.shadow, len(answered.rows)
        if self._is_shadow(shadow) and not await self._residency.bring_back(shadow):
            self._metrics.not_compared(shadow.key, "unloaded", count)
            return
        for start in range(0, count, CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            # Requests first; and a version that is no shadow any more is about to be unloaded.
            if answered.served.log_prob.queue_rows or not self._is_shadow(shadow):
                self._metrics.not_compared(shadow.key, "dropped", count - start)
                return
            log_prob = answered.log_prob[part]
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    context = None if answered.context is None else answered.context[part]
                    found = differences(await shadow.score(answered.rows[part], context), log_prob)
            except Exception as error:
                expected = isinstance(error, EngineError | TimeoutError)
                log.log(logging.DEBUG if expected else logging.ERROR, "the shadow %s failed: %r", shadow.key, error)
                self._metrics.not_compared(shadow.key, "failed", len(log_prob))
                continue
            self._metrics.compared(shadow.key, found, answered.served.tolerance)

    def _is_shadow(self, version: ServedModel) -> bool:
        return self._registry.shadow(version.key.name) is version
