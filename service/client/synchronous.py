"""The blocking client."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc
from numpy.typing import ArrayLike, NDArray

from service.client.channel import call_metadata, channel_options
from service.client.errors import from_rpc_error
from service.client.messages import (
    Calls,
    FloatArray,
    ModelInfo,
    Request,
    Response,
    Result,
    Samples,
    Scores,
    draw_calls,
    list_calls,
    model_info,
    score_calls,
)
from service.client.patience import Patience
from service.client.streams import Chunk, DrawStream, ScoreStream, deadline_after, row_chunks, seconds_until
from service.client.tls import TLS, channel_security
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub


class DensityClient:
    """Scores rows and draws samples over gRPC; safe to share between threads.

    Args:
        target: ``host:port``, or any gRPC target.
        timeout: seconds allowed for each call, retries included; ``None`` for no limit of the client's own.
        token: what ``flowmodel token new`` printed, where the service asks for one.
        tls: ``True`` for TLS with the usual authorities, or a :class:`~service.client.TLS`; plain text without.
        credentials: channel credentials of another kind, instead of ``tls``.

    Every method raises a :class:`~service.client.DensityError` when it is not answered. UNAVAILABLE is retried, and
    CANCELLED where this side did not cancel, up to five times with growing pauses. In asyncio use
    :class:`AsyncDensityClient`.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float | None = 60.0,
        token: str | None = None,
        tls: TLS | bool = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.timeout = timeout
        self._metadata = call_metadata(token)
        chosen, options = channel_security(tls, credentials)
        options += channel_options()
        if chosen is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, chosen, options)
        self._stub: Any = DensityServiceStub(self._channel)

    def log_prob(
        self,
        model: str,
        rows: ArrayLike,
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> FloatArray:
        """Log-densities of rows, in nats and in the units of the data.

        Args:
            model: name of the model.
            rows: ``[N, D]``, float32 or float64; what is large is sent in several calls.
            context: ``[N, C]``, or ``[1, C]`` for all rows, where the model takes one.
            version: a version; ``None`` for the default one.
            timeout: seconds allowed, instead of the client's.

        Returns:
            ``[N]``; NaN for a row that cannot be scored, such as one with a NaN in it (:meth:`score` says why).
        """
        return self.score(model, rows, context, version=version, timeout=timeout).log_prob

    def score(
        self,
        model: str,
        rows: ArrayLike,
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Scores:
        """As :meth:`log_prob`, with the errors of single rows and the version that answered."""
        return self._drive(score_calls(model, rows, context, version), self._stub.LogProb, timeout)

    def sample(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        with_log_prob: bool = False,
        timeout: float | None = None,
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Samples ``[count, *event_shape]``, with ``with_log_prob`` also their log-densities ``[count]``.

        Args:
            model: name of the model.
            count: how many.
            seed: the same seed gives the same samples; ``None`` draws one.
            context: ``[count, C]`` or ``[1, C]``, where the model takes one.
            version: a version; ``None`` for the default one.
            with_log_prob: whether to return the log-densities too.
            timeout: seconds allowed for each call, instead of the client's.
        """
        drawn = self.draw(model, count, seed=seed, context=context, version=version, timeout=timeout)
        return (drawn.samples, drawn.log_prob) if with_log_prob else drawn.samples

    def draw(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Samples:
        """As :meth:`sample`, with the log-densities, the seed that repeats the draw, and the version that answered."""
        return self._drive(draw_calls(model, count, seed, context, version), self._stub.Sample, timeout)

    def stream_log_prob(
        self,
        model: str,
        rows: NDArray[Any] | Iterable[Chunk],
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Iterator[FloatArray]:
        """Log-densities of more rows than memory holds, chunk by chunk and in order.

        Chunks are read as they are needed, at most :data:`~service.client.streams.UNANSWERED` further than answered. A
        stream that is cut off is taken up again at the first chunk without an answer, on the version it began with.

        Args:
            model: name of the model.
            rows: an iterable of chunks ``[n, D]``, or of pairs of rows and contexts ``[n, C]``; or one array
                ``[N, D]``, which may be memory-mapped and is sent in chunks of about half a mebibyte.
            context: ``[1, C]`` for all rows, or ``[N, C]`` beside one array, where the model takes one.
            version: a version; ``None`` for the one that is the default when the stream begins.
            timeout: seconds allowed for the whole stream; ``None`` for no limit.

        Yields:
            ``[n]`` for each chunk; NaN for a row that cannot be scored (:meth:`stream_score` says why).
        """
        for scores in self.stream_score(model, rows, context, version=version, timeout=timeout):
            yield scores.log_prob

    def stream_sample(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        start: int = 0,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        chunk_rows: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[FloatArray]:
        """Samples ``[n, *event_shape]`` chunk by chunk, drawn no further than they are taken.

        A stream that is cut off is taken up again after the last chunk received.

        Args:
            model: name of the model.
            count: how many in all; 10**8 take no more memory than 10**4.
            seed: the same seed gives the same samples; ``None`` draws one.
            start: index in the seed's stream of the first sample, to go on with an earlier draw.
            context: ``[1, C]`` for all samples, or ``[count, C]``, where the model takes one.
            version: a version; ``None`` for the one that is the default when the stream begins.
            chunk_rows: most samples of one chunk; ``None`` for the service's choice, up to a mebibyte.
            timeout: seconds allowed for the whole stream; ``None`` for no limit.
        """
        draws = self.stream_draw(
            model,
            count,
            seed=seed,
            start=start,
            context=context,
            version=version,
            chunk_rows=chunk_rows,
            timeout=timeout,
        )
        for drawn in draws:
            yield drawn.samples

    def stream_score(
        self,
        model: str,
        rows: NDArray[Any] | Iterable[Chunk],
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Iterator[Scores]:
        """As :meth:`stream_log_prob`, with the errors of single rows, counted within each chunk."""
        stream, chunks, deadline = ScoreStream(model, version), row_chunks(rows, context), deadline_after(timeout)
        more = True
        while more or stream.unanswered:
            # The chunks are read by whoever reads the answers; gRPC only takes them from this queue, on its own thread.
            sending: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for request in stream.again() if more else [*stream.again(), None]:
                sending.put(request)
            call = self._stub.StreamLogProb(
                iter(sending.get, None), timeout=seconds_until(deadline), metadata=self._metadata
            )
            try:
                while more or stream.unanswered:
                    while more and not stream.full:
                        chunk = next(chunks, None)
                        more = chunk is not None
                        sending.put(None if chunk is None else stream.request(*chunk))
                    if not stream.unanswered:
                        break
                    yield stream.receive(next(call))
            except (grpc.RpcError, StopIteration) as error:
                time.sleep(stream.pause(error))
            finally:
                sending.put(None)
                call.cancel()

    def stream_draw(
        self,
        model: str,
        count: int,
        *,
        seed: int | None = None,
        start: int = 0,
        context: ArrayLike | None = None,
        version: int | str | None = None,
        chunk_rows: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[Samples]:
        """As :meth:`stream_sample`, with the log-densities, the seed that repeats the draw, and the version."""
        stream = DrawStream(model, count, seed, start, context, version, chunk_rows)
        deadline = deadline_after(timeout)
        while not stream.done:
            call = self._stub.StreamSample(stream.request(), timeout=seconds_until(deadline), metadata=self._metadata)
            try:
                while not stream.done:
                    yield stream.receive(next(call))
            except (grpc.RpcError, StopIteration) as error:
                time.sleep(stream.pause(error))
            finally:
                call.cancel()

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """One model: its loaded versions, its features, its default version."""
        return model_info(self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout).model)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every loaded model."""
        return self._drive(list_calls(), self._stub.ListModels, timeout)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, calls: Calls[Request, Response, Result], method: Any, timeout: float | None) -> Result:
        try:
            request = next(calls)
            while True:
                request = calls.send(self._call(method, request, timeout))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        patience = Patience(self.timeout if timeout is None else timeout)
        while True:
            try:
                return method(request, timeout=patience.left(), metadata=self._metadata)
            except grpc.RpcError as raised:
                error = from_rpc_error(raised)
            time.sleep(patience.pause(error))
