"""The methods of ``density.v1.DensityService``."""
# ruff: noqa: N802 - methods are named as the protocol names them

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from service.description import describe_model, list_models, model_message
from service.errors import DeadlinePassed, InvalidRequest, ServiceError
from service.gateway import Gateway, answering
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1 import density_service_pb2_grpc as pb_grpc
from service.metrics import Request
from service.rpc.status import row_error_message, to_status
from service.tensors import decode, encode

Context: TypeAlias = grpc.aio.ServicerContext


class DensityServicer(pb_grpc.DensityServiceServicer):
    """Converts messages, delegates to the gateway, converts back.

    Args:
        gateway: answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def LogProb(self, request: pb.LogProbRequest, context: Context) -> pb.LogProbResponse:
        """Natural log-density of each row."""
        async with self._request("LogProb", context) as account:
            with self._gateway.open(account, request.model, request.version) as served:
                rows = decode(request.rows, "rows")
                given = decode(request.context, "context") if request.HasField("context") else None
                scores = await self._gateway.log_prob(served, rows, given, self._deadline(context))
                return pb.LogProbResponse(
                    model=served.key.name,
                    version=str(served.key.version),
                    log_prob=encode(scores.log_prob),
                    row_errors=map(row_error_message, scores.row_errors),
                )

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:
        """Samples of a model."""
        async with self._request("Sample", context) as account:
            if request.HasField("seed"):
                account.affinity = f"seed {request.seed}"
            with self._gateway.open(account, request.model, request.version) as served:
                drawn = await self._gateway.sample(
                    served,
                    count=request.count,
                    seed=request.seed if request.HasField("seed") else None,
                    context=decode(request.context, "context") if request.HasField("context") else None,
                    deadline=self._deadline(context),
                    start=request.start,
                )
                return pb.SampleResponse(
                    model=served.key.name,
                    version=str(served.key.version),
                    seed=drawn.seed,
                    samples=encode(drawn.samples),
                    log_prob=encode(drawn.log_prob) if request.with_log_prob else None,
                )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """What one model takes."""
        async with self._request("GetModel", context) as account:
            with self._gateway.open(account, request.model, request.version):
                described = describe_model(self._gateway.registry, request.model, request.version)
            return pb.GetModelResponse(model=model_message(described))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Every model that answers now."""
        async with self._request("ListModels", context):
            if request.page_size < 0:
                raise InvalidRequest.of(
                    "INVALID_PAGE_SIZE", "page_size", f"{request.page_size} given; 0 or more expected"
                )
            models, token = list_models(self._gateway.registry, request.page_size, request.page_token)
            return pb.ListModelsResponse(models=map(model_message, models), next_page_token=token)

    @contextlib.asynccontextmanager
    async def _request(self, method: str, context: Context) -> AsyncIterator[Request]:
        """Account for one call; a service error in it ends the call with its rich status."""
        try:
            with self._gateway.metrics.request(method) as account:
                account.affinity = _request_id(context)
                try:
                    async with answering(account):
                        yield account
                except asyncio.CancelledError:
                    # gRPC cancels a call whose deadline passed, as it does one whose client went away.
                    if context.time_remaining() == 0:
                        account.code = DeadlinePassed.code
                    raise
        except ServiceError as error:
            await context.abort_with_status(to_status(error))

    def _deadline(self, context: Context) -> float:
        return self._gateway.deadline(context.time_remaining())


def _request_id(context: Context) -> str:
    """What the caller calls this request; empty if nothing."""
    for name, value in context.invocation_metadata() or ():
        if name == "x-request-id":
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""
