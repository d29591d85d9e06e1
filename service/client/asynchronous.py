"""The client for asyncio."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from numpy.typing import ArrayLike

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
from service.client.tls import TLS, channel_security
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub


class AsyncDensityClient:
    """Scores rows and draws samples over gRPC in asyncio; every method as in :class:`~service.client.DensityClient`.

    Args:
        target: ``host:port``, or any gRPC target.
        timeout: seconds allowed for each call, retries included; ``None`` for no limit of the client's own.
        token: what ``flowmodel token new`` printed, where the service asks for one.
        tls: ``True`` for TLS with the usual authorities, or a :class:`~service.client.TLS`; plain text without.
        credentials: channel credentials of another kind, instead of ``tls``.
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
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, chosen, options)
        self._stub: Any = DensityServiceStub(self._channel)

    async def log_prob(
        self,
        model: str,
        rows: ArrayLike,
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> FloatArray:
        """Log-densities ``[N]`` of rows ``[N, D]``."""
        return (await self.score(model, rows, context, version=version, timeout=timeout)).log_prob

    async def score(
        self,
        model: str,
        rows: ArrayLike,
        context: ArrayLike | None = None,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Scores:
        """As :meth:`log_prob`, with the errors of single rows and the version that answered."""
        return await self._drive(score_calls(model, rows, context, version), self._stub.LogProb, timeout)

    async def sample(
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
        """Samples ``[count, *event_shape]``, with ``with_log_prob`` also their log-densities ``[count]``."""
        drawn = await self.draw(model, count, seed=seed, context=context, version=version, timeout=timeout)
        return (drawn.samples, drawn.log_prob) if with_log_prob else drawn.samples

    async def draw(
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
        return await self._drive(draw_calls(model, count, seed, context, version), self._stub.Sample, timeout)

    async def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """One model: its loaded versions, its features, its default version."""
        return model_info((await self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout)).model)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every loaded model."""
        return await self._drive(list_calls(), self._stub.ListModels, timeout)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _drive(self, calls: Calls[Request, Response, Result], method: Any, timeout: float | None) -> Result:
        try:
            request = next(calls)
            while True:
                request = calls.send(await self._call(method, request, timeout))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return await method(request, timeout=self.timeout if timeout is None else timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
