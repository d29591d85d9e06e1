"""The engine that computes in the gateway's own process: the smallest latency, nothing else to start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

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


class InProcessEngine:
    """Scorers in this process, called on threads so that the event loop never waits for them.

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
            self._scorers[key] = await self._run(self._open, published)
            log.info("loaded %s", key)

    async def unload(self, key: ModelKey) -> None:
        """See :meth:`Engine.unload`."""
        if self._scorers.pop(key, None) is not None:
            log.info("unloaded %s", key)

    async def log_prob(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray:
        """See :meth:`Engine.log_prob`."""
        return await self._run(self._scorer(key).log_prob, rows, context)

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

    def _open(self, published: PublishedModel) -> Scorer:
        from flowmodel.runtime.scoring import Scorer

        return Scorer.load(published.scorer_path, pool=self._parts, threads=self._threads)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call on one of the engine's threads, its errors made the engine's."""
        if self._calls is None:
            raise EngineUnavailable("the in-process engine is not started")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calls, _translated, function, *arguments)
        except RuntimeError as error:
            # The pool was shut down between the check and the call.
            raise EngineUnavailable(f"the in-process engine is closing: {error}") from error


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
