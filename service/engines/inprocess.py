"""The engine that computes in the gateway's own process: the smallest latency, nothing else to start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from service.engines.engine import (
    Draw,
    EngineError,
    EngineUnavailable,
    FloatArray,
    ModelKey,
    RequestRejected,
)

if TYPE_CHECKING:
    from flowmodel.artefact.store import PublishedModel
    from flowmodel.runtime.scoring import Scorer

log = logging.getLogger(__name__)

T = TypeVar("T")

_INLINE_SECONDS = 200e-6
"""Log-densities that take less are computed in the event loop's thread: the way to another one and back, and the wait
for the interpreter at its end, take longer, and as much of the processor."""

_AT_ONCE_SECONDS = 50e-6
"""Those that take less are computed before the request that asks for them is even queued: the way through the queue
takes longer."""

_TRIALS = 5


class InProcessEngine:
    """Scorers in this process, called on threads so that the event loop does not wait for them.

    Use the TorchServe engine instead where a model that runs out of memory must not take the gateway with it.

    Args:
        threads: rows of one call are spread over as many.

    Example:
        >>> engine = InProcessEngine(threads=2)
        >>> engine.healthy
        False
    """

    name = "inprocess"

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        self._threads = threads
        self._scorers: dict[ModelKey, Scorer] = {}
        self._row_seconds: dict[ModelKey, float] = {}
        self._calls: ThreadPoolExecutor | None = None
        self._parts: ThreadPoolExecutor | None = None

    @property
    def healthy(self) -> bool:
        """Whether the engine is started."""
        return self._calls is not None

    async def start(self) -> None:
        """Import torch, set it up for scoring and start the threads."""
        if self._calls is not None:
            return
        calls = ThreadPoolExecutor(self._threads, "engine-call")
        self._calls = calls
        self._parts = ThreadPoolExecutor(self._threads, "engine-part")
        await self._run(_prepare)
        log.info("in-process engine ready, %d threads", self._threads)

    async def close(self) -> None:
        """Let go of every model and end the threads, after the calls under way."""
        calls, parts, self._calls, self._parts = self._calls, self._parts, None, None
        self._scorers.clear()
        for pool in (calls, parts):
            if pool is not None:
                await asyncio.to_thread(pool.shutdown)

    async def load(self, published: PublishedModel) -> None:
        """See :meth:`Engine.load`."""
        key = ModelKey(published.name, published.version)
        if key not in self._scorers:
            self._scorers[key], self._row_seconds[key] = await self._run(self._open, published)
            log.info("loaded %s", key)

    async def unload(self, key: ModelKey) -> None:
        """See :meth:`Engine.unload`."""
        self._row_seconds.pop(key, None)
        if self._scorers.pop(key, None) is not None:
            log.info("unloaded %s", key)

    async def log_prob(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray:
        """See :meth:`Engine.log_prob`."""
        scorer = self._scorer(key)
        if len(rows) * self._row_seconds[key] <= _INLINE_SECONDS:
            return _translated(scorer.log_prob, rows, context)
        return await self._run(scorer.log_prob, rows, context)

    def log_prob_at_once(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray | None:
        """See :meth:`Engine.log_prob_at_once`."""
        scorer = self._scorer(key)
        if len(rows) * self._row_seconds[key] > _AT_ONCE_SECONDS:
            return None
        return _translated(scorer.log_prob_at_once, rows, context)

    async def sample(
        self, key: ModelKey, draws: Sequence[Draw], context: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """See :meth:`Engine.sample`."""
        return await self._run(self._scorer(key).sample, draws, context)

    def _scorer(self, key: ModelKey) -> Scorer:
        if self._calls is None:
            raise EngineUnavailable("the in-process engine is not started")
        try:
            return self._scorers[key]
        except KeyError:
            raise EngineError(f"{key} is not loaded") from None

    def _open(self, published: PublishedModel) -> tuple[Scorer, float]:
        """The scorer, and how long a call of it with one row takes."""
        from flowmodel.runtime.scoring import Scorer

        scorer = Scorer.load(published.scorer_path, pool=self._parts, threads=self._threads)
        return scorer, _seconds_of_a_row(scorer)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call on one of the engine's threads, its errors made the engine's."""
        if self._calls is None:
            raise EngineUnavailable("the in-process engine is not started")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calls, _translated, function, *arguments)
        except RuntimeError as error:
            # The pool was shut down between the check and the call.
            raise EngineUnavailable(f"the in-process engine is closing: {error}") from error


def _seconds_of_a_row(scorer: Scorer) -> float:
    """How long a call with one row takes, the best of a few."""
    row = np.zeros((1, scorer.event_size), scorer.dtype)
    context = np.zeros((1, scorer.context_size), scorer.dtype) if scorer.context_size else None
    times = []
    for _ in range(_TRIALS):
        begin = time.perf_counter()
        scorer.log_prob(row, context)
        times.append(time.perf_counter() - begin)
    return min(times)


def _prepare() -> None:
    from flowmodel.runtime.scoring import prepare_torch

    prepare_torch()


def _translated(function: Callable[..., T], *arguments: object) -> T:
    from flowmodel.runtime.scoring import ScoringError, explain_failure

    try:
        return function(*arguments)
    except ScoringError as error:
        raise RequestRejected(error.reason, error.field, str(error)) from error
    except Exception as error:
        # TorchScript's own errors derive from nothing narrower.
        raise EngineError(explain_failure(error)) from error
