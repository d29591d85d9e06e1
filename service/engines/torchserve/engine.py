"""The engine behind which TorchServe computes, kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from service.engines.engine import Draw, EngineError, EngineUnavailable, FloatArray, ModelKey
from service.engines.torchserve.client import NotRegistered, TorchServeClient, WorkerGone
from service.engines.torchserve.keys import KeyFile
from service.engines.torchserve.leases import Leases
from service.engines.torchserve.options import TorchServeOptions
from service.engines.torchserve.process import TorchServeLife, TorchServeProcess, back_off
from service.engines.torchserve.shared import SharedTorchServe

if TYPE_CHECKING:
    from flowmodel.artefact.store import PublishedModel

log = logging.getLogger(__name__)

_READY_POLL_SECONDS = 0.1
_PING_SECONDS = 2.0
_PART_ROWS = 32
"""Parts of a call hold a multiple of so many rows, the scorer's pad, so that parting a call costs no padding."""


class TorchServeEngine:
    """Models in TorchServe's worker processes, reached over gRPC.

    With no address in the options, TorchServe is a child of this process: started and ended with the engine, started
    again with all its models when it dies. It listens on loopback alone. A model's worker that dies is started again by
    TorchServe; until it is back the engine is not healthy.

    Args:
        options: see there.
        shared: the TorchServe that the parent of several gateways keeps, instead of a child of this process.
        leases: for an address in the options that several gateways of one service are given.

    Example:
        >>> engine = TorchServeEngine(TorchServeOptions(threads=2))
        >>> engine.healthy
        False
    """

    name = "torchserve"

    def __init__(
        self, options: TorchServeOptions, shared: SharedTorchServe | None = None, leases: Leases | None = None
    ) -> None:
        self._options = options
        self._shared = shared
        self._leases = leases or Leases(None)
        self._models: dict[ModelKey, PublishedModel] = {}
        self._client: TorchServeClient | None = None
        self._process: TorchServeLife | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._recoveries: dict[ModelKey, asyncio.Task[None]] = {}
        self._well = asyncio.Event()
        self._reachable = True
        # Management calls one after the other: TorchServe does not promise more, and a restart must see all or none.
        self._managing = asyncio.Lock()
        self._archive_numbers = itertools.count(1)

    @property
    def healthy(self) -> bool:
        """Whether TorchServe is up and every loaded model has its worker."""
        return self._well.is_set()

    @property
    def process(self) -> TorchServeLife | None:
        """The child, or the one shared with others, while it is up."""
        return self._process

    async def wait_healthy(self) -> None:
        """Return when the engine is healthy."""
        await self._well.wait()

    async def start(self) -> None:
        """See :meth:`Engine.start`."""
        if self._client is not None or self._watcher is not None:
            return
        if self._options.address is not None:
            await self._connect(
                self._options.address, self._options.management_address or "", KeyFile(self._options.key_file)
            )
            self._watcher = asyncio.create_task(self._watch_elsewhere(self._up()))
        else:
            await self._start_child()
            self._watcher = asyncio.create_task(self._watch())
        self._update_health()

    async def close(self) -> None:
        """See :meth:`Engine.close`."""
        tasks = [task for task in (self._watcher, *self._recoveries.values()) if task is not None]
        self._watcher = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._models.clear()
        await self._drop()

    async def load(self, published: PublishedModel) -> None:
        """See :meth:`Engine.load`."""
        key = ModelKey(published.name, published.version)
        async with self._managing:
            if key in self._models:
                return
            client = self._up()
            async with self._leases.changing():
                await self._register(client, published)
            self._models[key] = published
            self._update_health()

    async def unload(self, key: ModelKey) -> None:
        """See :meth:`Engine.unload`."""
        async with self._managing:
            if self._models.pop(key, None) is None:
                return
            if (recovery := self._recoveries.pop(key, None)) is not None:
                recovery.cancel()
            self._update_health()
            if self._client is None:
                return
            async with self._leases.changing():
                await self._unregister(self._client, self._leases.give_back(key))
            log.info("unloaded %s", key)

    async def log_prob(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray:
        """See :meth:`Engine.log_prob`."""
        row_bytes = rows.dtype.itemsize * rows.shape[1] if rows.ndim == 2 else 0
        results = []
        for part in _parts(len(rows), self._rows_per_call(row_bytes, context)):
            arrays = {"rows": rows[part], **_context_part(context, part)}
            results.append((await self._call(key, {"op": "log_prob"}, arrays))["log_prob"])
        return results[0] if len(results) == 1 else np.concatenate(results)

    def log_prob_at_once(self, key: ModelKey, rows: FloatArray, context: FloatArray | None) -> FloatArray | None:
        """None: the rows have to go to TorchServe."""
        return None

    async def sample(
        self, key: ModelKey, draws: Sequence[Draw], context: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """See :meth:`Engine.sample`."""
        # Samples come back in float64 at most, each with its log-density.
        row_bytes = 8 * (self._published(key).manifest.event_size + 1)
        count = sum(draw.count for draw in draws)
        samples, log_probs = [], []
        for part in _parts(count, self._rows_per_call(row_bytes, context)):
            header = {"op": "sample", "draws": [list(draw) for draw in _draws_part(draws, part)]}
            results = await self._call(key, header, _context_part(context, part))
            samples.append(results["samples"])
            log_probs.append(results["log_prob"])
        return np.concatenate(samples), np.concatenate(log_probs)

    async def _call(
        self, key: ModelKey, header: dict[str, Any], arrays: dict[str, FloatArray]
    ) -> dict[str, FloatArray]:
        self._published(key)
        client = self._up()
        try:
            return await client.predict(key, header, arrays)
        except WorkerGone:
            self._recover(key)
            raise
        except NotRegistered as error:
            if key not in self._models:
                raise
            self._recover(key)
            raise EngineUnavailable(f"{key} is being loaded again: {error}") from error

    def _rows_per_call(self, row_bytes: int, context: FloatArray | None) -> int:
        """How many rows keep a call and its answer below the size of a message; a multiple of the scorer's pad."""
        context_bytes = context.dtype.itemsize * context.shape[1] if context is not None and context.ndim == 2 else 0
        rows = self._options.message_bytes // max(row_bytes, context_bytes + row_bytes, 1)
        return max(rows // _PART_ROWS, 1) * _PART_ROWS

    def _published(self, key: ModelKey) -> PublishedModel:
        try:
            return self._models[key]
        except KeyError:
            raise EngineError(f"{key} is not loaded") from None

    def _up(self) -> TorchServeClient:
        if self._client is None:
            raise EngineUnavailable("TorchServe is not up")
        return self._client

    def _update_health(self) -> None:
        if self._client is not None and self._reachable and not self._recoveries:
            self._well.set()
        else:
            self._well.clear()

    async def _connect(self, address: str, management_address: str, keys: KeyFile) -> None:
        client = TorchServeClient(address, management_address, self._options.response_timeout_seconds + 10, keys)
        try:
            await client.wait_until_up(self._options.start_timeout_seconds)
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def _start_child(self) -> None:
        """Start TorchServe and connect to it, leaving nothing behind when that fails."""
        began = time.monotonic()
        process = await self._new_life()
        try:
            await process.start()
            ports = process.ports
            await self._connect(f"127.0.0.1:{ports.grpc_inference}", f"127.0.0.1:{ports.grpc_management}", process.keys)
        except BaseException:
            await process.stop()
            raise
        self._process, self._leases = process, process.leases
        log.info("TorchServe is up after %.1f s, process %d", time.monotonic() - began, process.pid)

    async def _new_life(self) -> TorchServeLife:
        if self._shared is None:
            return TorchServeProcess(self._options)
        return await self._shared.life(self._options.start_timeout_seconds)

    async def _drop(self) -> None:
        """Let go of TorchServe, ending it if it is ours."""
        client, process, self._client, self._process = self._client, self._process, None, None
        self._update_health()
        if client is not None:
            await client.close()
        if process is not None:
            await process.stop()
        self._leases.close()

    async def _watch(self) -> None:
        """Start TorchServe again with all its models whenever it ends."""
        while True:
            if self._process is not None:
                await self._process.wait()
                log.warning("TorchServe ended; it is started again")
            await self._drop()
            for attempt in itertools.count():
                await back_off(attempt)
                try:
                    await self._restart()
                    break
                except (EngineError, OSError) as error:
                    log.error("TorchServe did not come back: %s", error)
                    await self._drop()

    async def _watch_elsewhere(self, client: TorchServeClient) -> None:
        """Notice when a TorchServe that is not ours does not answer, and when it does again."""
        while True:
            await asyncio.sleep(_PING_SECONDS)
            try:
                await client.wait_until_up(_PING_SECONDS)
                reachable = True
            except EngineError:
                reachable = False
            if reachable != self._reachable:
                log.warning("the TorchServe elsewhere %s", "answers again" if reachable else "does not answer")
                self._reachable = reachable
                self._update_health()

    async def _restart(self) -> None:
        async with self._managing:
            for task in self._recoveries.values():
                task.cancel()
            self._recoveries.clear()
            await self._start_child()
            for key, published in self._models.items():
                try:
                    async with self._leases.changing():
                        await self._register(self._up(), published)
                except EngineUnavailable:
                    raise
                except EngineError as error:
                    log.error("%s could not be loaded again: %s", key, error)
                    self._recover(key)
            self._update_health()
            log.info("TorchServe is back with %d models", len(self._models))

    async def _register(self, client: TorchServeClient, published: PublishedModel) -> None:
        """Have TorchServe load a model, unless it has it already; see that it is ready."""
        key = ModelKey(published.name, published.version)
        began = time.monotonic()
        self._leases.take(key)
        if not self._owned and await self._was_there(client, key):
            log.info("%s was loaded already", key)
            return
        options = self._options
        with self._in_store(published) as archive:
            try:
                await client.register(
                    archive, options.batch_size, options.response_timeout_seconds, options.start_timeout_seconds
                )
                if not await _is_ready(client, key):
                    raise EngineError(f"TorchServe loaded {archive}, and has no worker ready for {key}")
            except EngineError:
                with contextlib.suppress(EngineError):
                    await self._unregister(client, self._leases.give_back(key))
                raise
        log.info("loaded %s in %.1f s", key, time.monotonic() - began)

    @property
    def _owned(self) -> bool:
        """Whether nobody but this engine registers anything."""
        return self._process is not None and self._shared is None

    async def _was_there(self, client: TorchServeClient, key: ModelKey) -> bool:
        """Whether somebody else had a version loaded, whose worker may be on its way back."""
        try:
            if await client.is_ready(key):
                return True
        except NotRegistered:
            return False
        if self._shared is not None and await self._comes_back(client, key):
            return True
        with contextlib.suppress(EngineError):
            await client.unregister(key, self._heir(key))
        return False

    async def _unregister(self, client: TorchServeClient, keys: Sequence[ModelKey]) -> None:
        for key in keys:
            with contextlib.suppress(NotRegistered):
                await client.unregister(key, self._heir(key))
            self._leases.forget(key)

    @contextlib.contextmanager
    def _in_store(self, published: PublishedModel) -> Iterator[str]:
        """The name by which TorchServe can load an archive, for as long as it takes to."""
        if self._process is None:
            yield published.archive_path.name
            return
        # Under a name of ours: TorchServe refuses some that a model may have.
        link = self._process.model_store / f"model-{os.getpid()}-{next(self._archive_numbers)}.mar"
        link.symlink_to(published.archive_path.resolve())
        try:
            yield link.name
        finally:
            link.unlink(missing_ok=True)

    def _heir(self, key: ModelKey) -> ModelKey | None:
        """Another loaded version of the same model, loaded by whomever."""
        ours = (other for other in self._models if other.name == key.name and other != key)
        return next(itertools.chain(ours, self._leases.siblings(key)), None)

    def _recover(self, key: ModelKey) -> None:
        """Watch over one model until it has its worker back; the engine is not healthy meanwhile."""
        if key in self._models and key not in self._recoveries and self._client is not None:
            log.warning("%s lost its worker", key)
            self._recoveries[key] = asyncio.create_task(self._until_ready(self._client, key))
            self._update_health()

    async def _until_ready(self, client: TorchServeClient, key: ModelKey) -> None:
        """TorchServe starts another worker, and gives up some time; then the model is loaded afresh."""
        try:
            for attempt in itertools.count():
                if await self._comes_back(client, key):
                    break
                log.error("TorchServe has no worker for %s; it is loaded afresh", key)
                await back_off(attempt)
                async with self._managing, self._leases.changing():
                    # Another gateway may have been faster.
                    if await _is_ready(client, key):
                        break
                    with contextlib.suppress(EngineError):
                        await client.unregister(key, self._heir(key))
                    with contextlib.suppress(EngineError):
                        await self._register(client, self._published(key))
            log.info("%s has its worker back", key)
        except EngineError as error:
            # TorchServe itself is gone; whoever watches it loads everything again.
            log.warning("stopped waiting for a worker of %s: %s", key, error)
        finally:
            if self._recoveries.get(key) is asyncio.current_task():
                del self._recoveries[key]
                self._update_health()

    async def _comes_back(self, client: TorchServeClient, key: ModelKey) -> bool:
        """Wait for a ready worker as long as a start may take; say whether one came."""
        deadline = time.monotonic() + self._options.start_timeout_seconds
        while time.monotonic() < deadline:
            # Right after a worker's death TorchServe still calls it ready, so look a little later.
            await asyncio.sleep(_READY_POLL_SECONDS)
            try:
                if await client.is_ready(key):
                    return True
            except NotRegistered:
                return False
        return False


async def _is_ready(client: TorchServeClient, key: ModelKey) -> bool:
    try:
        return await client.is_ready(key)
    except NotRegistered:
        return False


def _parts(count: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` that cover ``count`` rows; one even when there are none, for the model to refuse."""
    for start in range(0, max(count, 1), size):
        yield slice(start, min(start + size, count))


def _context_part(context: FloatArray | None, part: slice) -> dict[str, FloatArray]:
    return {} if context is None else {"context": context[part]}


def _draws_part(draws: Sequence[Draw], part: slice) -> Iterator[Draw]:
    """What of the draws falls into one slice of their rows put one after the other."""
    offset = 0
    for draw in draws:
        start, stop = max(part.start - offset, 0), min(part.stop - offset, draw.count)
        if start < stop:
            yield Draw(draw.seed, draw.start + start, stop - start)
        offset += draw.count
