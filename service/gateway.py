"""What gRPC and HTTP both delegate to: find the model, check the rows, queue them, answer or refuse."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from service.engines.engine import Engine, EngineError, EngineUnavailable, RequestRejected
from service.errors import (
    DeadlinePassed,
    InternalError,
    InvalidRequest,
    LimitExceeded,
    PermissionDenied,
    RowError,
    ServiceError,
    Unavailable,
    Violation,
)
from service.metrics import Metrics, Request
from service.registry import DrawPayload, ModelRegistry, ScorePayload, ServedModel
from service.residency import Residency
from service.security.caller import CALLER
from service.security.limits import CLIENT
from service.settings import Settings
from service.shadow import ShadowScorer
from service.signature import MAX_ROW_ERRORS
from service.tensors import FloatArray

log = logging.getLogger(__name__)

_SEED_LIMIT = 2**64
_SCOPES = {"LogProb": "score", "StreamLogProb": "score", "Sample": "sample", "StreamSample": "sample"}
"""What a caller's token must be good for, by method; the others are open to every token."""
_DRAWN_SEED_BITS = 53
"""Seeds drawn here stay whole in every JSON reader, which may know numbers as float64 alone."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer to ``LogProb``: log-densities ``[N]``, NaN where a row error says why."""

    log_prob: FloatArray
    row_errors: list[RowError]


@dataclass(frozen=True, slots=True)
class Samples:
    """The answer to ``Sample``: samples ``[count, *event_shape]`` and their log-densities ``[count]``."""

    seed: int
    samples: FloatArray
    log_prob: FloatArray


class Gateway:
    """Answers requests of either transport.

    Args:
        settings: the limits.
        engine: for its health only; the models' batchers call it.
        registry: the loaded models.
        residency: loads again what was unloaded to save memory.
        metrics: what is counted.
    """

    def __init__(
        self, settings: Settings, engine: Engine, registry: ModelRegistry, residency: Residency, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.registry = registry
        self._residency = residency
        self.metrics = metrics
        self.stopping = asyncio.Event()
        self.shadows = ShadowScorer(registry, residency, metrics, settings.default_timeout_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        """Whether the service finishes what it has begun and takes nothing more; set ``stopping`` to have it so."""
        return self.stopping.is_set()

    @property
    def unready_reason(self) -> str | None:
        """Why no model can be asked now; None when at least one can."""
        if self.draining:
            return "draining: the service is stopping"
        if not len(self.registry):
            if self.registry.loading:
                return "loading the first models"
            if self.registry.unserved:
                return f"no version of {', '.join(self.registry.unserved)} could be loaded; the log says why"
            return "no model in the store yet"
        if not self.engine.healthy:
            return f"the {self.engine.name} engine is not well"
        return None

    def open(self, request: Request, model: str, version: str) -> Opened:
        """The version that answers a request, kept loaded meanwhile and written into the request's account.

        Raises:
            NotFound: no such model or version.
            Unavailable: the service is starting or stopping.
            PermissionDenied: the caller's token is not good for the method.
        """
        return Opened(self, request, model, version)

    def begin(self, request: Request, model: str, version: str) -> ServedModel:
        """What ``open`` does when it is entered; ``end`` is its end."""
        if request.method in _SCOPES:
            self._require(_SCOPES[request.method])
        if self.draining:
            self.metrics.rejected("draining")
            raise Unavailable("DRAINING", "the service is stopping; ask another one", retry_after_seconds=1.0)
        served = self.registry.resolve(model, version, request.affinity)
        request.model, request.version = served.key.name, str(served.key.version)
        self._active += 1
        if self._active == 1:
            self._idle.clear()
        served.acquire()
        return served

    def end(self, served: ServedModel) -> None:
        """A request that was begun is answered."""
        served.release()
        self._active -= 1
        if not self._active:
            self._idle.set()

    @property
    def active(self) -> int:
        """Requests that are being answered."""
        return self._active

    async def idle(self) -> None:
        """Wait until no request is being answered."""
        await self._idle.wait()

    def deadline(self, seconds: float | None) -> float:
        """When an answer is due, on the event loop's clock.

        Args:
            seconds: what the caller allows from now on; None for the service's default.
        """
        allowed = self.settings.default_timeout_seconds if seconds is None else seconds
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time() + allowed

    async def log_prob(
        self,
        served: ServedModel,
        rows: FloatArray,
        context: FloatArray | None,
        deadline: float,
        unreadable: Sequence[RowError] = (),
        *,
        patient: bool = False,
    ) -> Scores:
        """Score rows.

        Args:
            served: from ``open``.
            rows: ``[N, D]`` or ``[N, *event_shape]``.
            context: ``[N, C]`` or ``[1, C]``, or None.
            deadline: on the event loop's clock.
            unreadable: rows that could not be read at all, ascending; they hold NaN, and are described by these.
            patient: wait for room in a full queue instead of being refused.

        Raises:
            ServiceError: see the error table in ``docs/architecture.md``.
        """
        self._require("score")
        signature = served.signature
        rows = signature.check_rows(rows, self.settings.max_rows_per_request)
        context = signature.check_context(context, len(rows))
        if CLIENT.get() is not None:
            await self._charge(len(rows), deadline, patient)
        bad, row_errors = signature.bad_rows(rows, context)
        if bad is None:
            log_prob = await self._score(served, rows, context, deadline, patient)
        else:
            log_prob = np.full(len(rows), np.nan, served.dtype)
            good = ~bad
            if good.any():
                part = context[good] if context is not None else None
                log_prob[good] = await self._score(served, rows[good], part, deadline, patient)
        if unreadable:
            row_errors = _merged(row_errors, unreadable)
        unanswered = np.isnan(log_prob)
        count = int(np.count_nonzero(unanswered))
        if count:
            row_errors = _with_model_errors(row_errors, unanswered if bad is None else unanswered & ~bad)
        self.metrics.scored(served.key, log_prob, count)
        return Scores(log_prob, row_errors)

    async def sample(
        self,
        served: ServedModel,
        count: int,
        seed: int | None,
        context: FloatArray | None,
        deadline: float,
        start: int = 0,
        *,
        patient: bool = False,
    ) -> Samples:
        """Draw samples.

        Args:
            served: from ``open``.
            count: how many, at least 1.
            seed: which stream, 0 to 2**64 - 1; None to have one drawn.
            context: ``[count, C]`` or ``[1, C]``, or None.
            deadline: on the event loop's clock.
            start: index in the stream of the first sample.
            patient: wait for room in a full queue instead of being refused.

        Raises:
            ServiceError: see the error table in ``docs/architecture.md``.
        """
        self._require("sample")
        signature = served.signature
        self.check_draw(served, count, seed, start, self.most_samples(served))
        context = signature.check_context(context, count)
        if context is not None and not np.isfinite(context).all():
            raise InvalidRequest.of("NON_FINITE_VALUE", "context", "holds NaN or infinity; every value must be finite")
        await self._charge(count, deadline, patient)
        if seed is None:
            seed = drawn_seed()
        try:
            if not served.resident:
                await self._residency.ensure(served, deadline)
            payload = DrawPayload(seed, start, context)
            samples, log_prob = await served.sample.submit(count, payload, deadline, patient=patient)
        except EngineError as error:
            raise _translated(error) from error
        served.sample_metrics.computed(count)
        return Samples(seed, samples.reshape(count, *signature.event_shape), log_prob)

    async def _score(
        self, served: ServedModel, rows: FloatArray, context: FloatArray | None, deadline: float, patient: bool
    ) -> FloatArray:
        try:
            if not served.resident:
                await self._residency.ensure(served, deadline)
            payload = ScorePayload(rows, context)
            (log_prob,) = await served.log_prob.submit(len(rows), payload, deadline, patient=patient)
        except EngineError as error:
            raise _translated(error) from error
        served.log_prob_metrics.computed(len(rows))
        self.shadows.offer(served, rows, context, log_prob)
        return log_prob

    def _require(self, scope: str) -> None:
        """Go on when the caller's token is good for this."""
        try:
            CALLER.get().require(scope)
        except PermissionDenied:
            self.metrics.rejected("permission_denied")
            raise

    async def _charge(self, rows: int, deadline: float, patient: bool) -> None:
        """Count rows on their client's account, after waiting until there is room for them if that was asked for."""
        client = CLIENT.get()
        if client is None:
            return
        if not patient:
            try:
                client.take_rows(rows)
            except LimitExceeded as error:
                self.metrics.rejected(error.reason.lower())
                raise
            return
        wait = client.reserve_rows(rows)
        if not wait:
            return
        try:
            if asyncio.get_running_loop().time() + wait > deadline:
                text = f"the client's limit on rows would make this wait {wait:.3g} s, which is past the deadline"
                raise DeadlinePassed("DEADLINE_PASSED", text)
            await asyncio.sleep(wait)
        except BaseException:
            client.give_back_rows(rows)
            raise

    def most_samples(self, served: ServedModel) -> int:
        """How many samples of a model one answer may hold."""
        row_bytes = served.signature.event_size * served.dtype.itemsize
        return max(1, min(self.settings.max_samples_per_request, self.settings.max_response_bytes // row_bytes))

    def check_draw(self, served: ServedModel, count: int, seed: int | None, start: int, most: int) -> None:
        """See whether these samples can be asked for.

        Raises:
            InvalidRequest: the count is not 1 to ``most``, or the seed or the start is out of range.
        """
        violations = []
        if not 1 <= count <= most:
            text = f"{count} given; 1 to {most} expected in one request of {served.key.name}"
            violations.append(Violation("count", f"{text}: draw more with several requests" if count > most else text))
        if seed is not None and not 0 <= seed < _SEED_LIMIT:
            violations.append(Violation("seed", f"{seed} given; 0 to 2**64 - 1 expected"))
        if not 0 <= start < _SEED_LIMIT // 2:
            violations.append(Violation("start", f"{start} given; 0 to 2**63 - 1 expected"))
        if violations:
            raise InvalidRequest("INVALID_COUNT" if violations[0].field == "count" else "INVALID_DRAW", violations)


class Opened:
    """From ``Gateway.open``: a model while a request uses it.

    A class, and not a generator, as are the others that every request passes: it costs a third.
    """

    __slots__ = ("_arguments", "_gateway", "_served")

    def __init__(self, gateway: Gateway, request: Request, model: str, version: str) -> None:
        self._gateway = gateway
        self._arguments = (request, model, version)

    def __enter__(self) -> ServedModel:
        self._served = self._gateway.begin(*self._arguments)
        return self._served

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gateway.end(self._served)


def drawn_seed() -> int:
    """A seed for a request that brings none."""
    return secrets.randbits(_DRAWN_SEED_BITS)


def _translated(error: EngineError) -> ServiceError:
    """An engine's error as what the caller is answered with."""
    if isinstance(error, RequestRejected):
        return InvalidRequest.of(error.reason, error.field, str(error))
    if isinstance(error, EngineUnavailable):
        return Unavailable("ENGINE_UNAVAILABLE", _first_line(error), retry_after_seconds=1.0)
    log.warning("the engine failed on a request: %s", error)
    return InternalError("MODEL_FAILED", f"the model failed on this request: {_first_line(error)}")


def settled(request: Request, error: BaseException | None) -> ServiceError | None:
    """Write how a request ended into its account.

    Args:
        request: its account.
        error: what was raised, if anything.

    Returns:
        What its transport answers in place of an error that nobody foresaw, which goes into the log; None for others.
    """
    if error is None:
        return None
    if isinstance(error, ServiceError):
        request.code = error.code
    elif isinstance(error, asyncio.CancelledError):
        request.code = "CANCELLED"
    elif isinstance(error, Exception):
        request.code = InternalError.code
        log.error("%s failed unexpectedly", request.method, exc_info=error)
        return InternalError("INTERNAL", f"the gateway failed: {type(error).__name__}; its log says more")
    return None


def _with_model_errors(row_errors: list[RowError], unanswered: np.ndarray) -> list[RowError]:
    """The row errors and one for each row the model itself has no density for, in order, as many as are described."""
    text = "the model's log-density is NaN; the row is finite but too extreme for the model's arithmetic"
    found = [RowError(int(row), "NO_DENSITY", text) for row in np.flatnonzero(unanswered)[:MAX_ROW_ERRORS]]
    return _merged(row_errors, found)


def _merged(row_errors: Sequence[RowError], more: Sequence[RowError]) -> list[RowError]:
    """Both in the order of their rows, as many as are described; ``more`` wins where both describe a row."""
    by_row = {error.row: error for error in (*row_errors, *more)}
    return [by_row[row] for row in sorted(by_row)[:MAX_ROW_ERRORS]]


def _first_line(error: Exception) -> str:
    """An error's text without whatever trace an engine may have hung on it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
