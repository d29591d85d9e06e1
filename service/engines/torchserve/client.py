"""Calls of TorchServe's gRPC interfaces, with its errors told apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty

from flowmodel.runtime.envelope import EnvelopeError, pack, unpack
from service.engines.engine import EngineError, EngineUnavailable, FloatArray, ModelKey, RequestRejected
from service.engines.torchserve.keys import KeyFile
from service.generated.torchserve import inference_pb2, inference_pb2_grpc, management_pb2, management_pb2_grpc

T = TypeVar("T")

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A channel of its own, not one shared with whoever else talks to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    # Loopback or a cluster's own network: a proxy from the environment is never meant.
    ("grpc.enable_http_proxy", 0),
]

_WORKER_GONE = ("Worker died", "Worker scaled down", "no worker", "did not respond")
"""What TorchServe's texts hold when a worker is gone, whatever status it chose to send them with."""

_NOT_REGISTERED = ("Model not found", "Model version")


class WorkerGone(EngineUnavailable):
    """The model's worker died or is not up; TorchServe starts another."""


class NotRegistered(EngineError):  # noqa: N818 - a state, which the engine reads as gone or as wrong
    """TorchServe does not know this model or version."""


class TorchServeClient:
    """A connection to one TorchServe.

    Args:
        address: host:port of its inference API.
        management_address: host:port of its management API.
        timeout_seconds: longest wait for a prediction, a little over what TorchServe itself allows a worker.
        keys: what it asks its callers for.
    """

    def __init__(self, address: str, management_address: str, timeout_seconds: float, keys: KeyFile) -> None:
        self._timeout = timeout_seconds
        self._keys = keys
        self._channels = [grpc.aio.insecure_channel(a, _CHANNEL_OPTIONS) for a in (address, management_address)]
        self._inference = inference_pb2_grpc.InferenceAPIsServiceStub(self._channels[0])
        self._management = management_pb2_grpc.ManagementAPIsServiceStub(self._channels[1])

    async def close(self) -> None:
        """End the connection; calls under way fail."""
        for channel in self._channels:
            await channel.close()

    async def wait_until_up(self, timeout_seconds: float) -> None:
        """Wait for both interfaces to answer.

        Raises:
            EngineUnavailable: they do not, within the time.
        """
        await _translated(
            self._inference.Ping(Empty(), timeout=timeout_seconds, wait_for_ready=True, metadata=self._keys.inference())
        )
        listing = management_pb2.ListModelsRequest(limit=1)
        await _translated(
            self._management.ListModels(
                listing, timeout=timeout_seconds, wait_for_ready=True, metadata=self._keys.management()
            )
        )

    async def predict(
        self, key: ModelKey, header: dict[str, Any], arrays: dict[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """One call of the handler.

        Raises:
            RequestRejected: the handler says that the input does not fit.
            WorkerGone, EngineUnavailable: nobody answered.
            EngineError: the model failed.
        """
        request = inference_pb2.PredictionsRequest(
            model_name=key.name, model_version=str(key.version), input={"envelope": pack(header, dict(arrays))}
        )
        response = await _translated(
            self._inference.Predictions(request, timeout=self._timeout, metadata=self._keys.inference())
        )
        try:
            answer, results = unpack(response.prediction)
        except EnvelopeError as error:
            start = bytes(response.prediction[:200]).decode(errors="replace")
            raise EngineError(f"TorchServe's answer for {key} is not from this handler ({error}): {start}") from None
        if answer.get("status") == "ok":
            return results
        message = str(answer.get("message", "the model failed and did not say why"))
        if answer.get("code") == "INVALID_ARGUMENT":
            raise RequestRejected(str(answer.get("reason", "REJECTED")), str(answer.get("field", "")), message)
        raise EngineError(message)

    async def register(self, archive: str, batch_size: int, response_timeout: int, start_timeout: float) -> None:
        """Load an archive of the model store and start its worker; returns when the worker has loaded it."""
        request = management_pb2.RegisterModelRequest(
            url=archive,
            batch_size=batch_size,
            initial_workers=1,
            synchronous=True,
            response_timeout=response_timeout,
            startup_timeout=max(int(start_timeout), 1),
        )
        await _translated(
            self._management.RegisterModel(request, timeout=start_timeout, metadata=self._keys.management())
        )

    async def unregister(self, key: ModelKey, heir: ModelKey | None) -> None:
        """Unload a version; ``heir`` is another version of the model, which becomes TorchServe's default.

        TorchServe refuses to unload the default version while there are others.
        """
        if heir is not None:
            default = management_pb2.SetDefaultRequest(model_name=heir.name, model_version=str(heir.version))
            await _translated(
                self._management.SetDefault(default, timeout=self._timeout, metadata=self._keys.management())
            )
        request = management_pb2.UnregisterModelRequest(model_name=key.name, model_version=str(key.version))
        await _translated(
            self._management.UnregisterModel(request, timeout=self._timeout, metadata=self._keys.management())
        )

    async def is_ready(self, key: ModelKey) -> bool:
        """Whether a worker has this version loaded.

        Raises:
            NotRegistered: TorchServe does not know it.
        """
        request = management_pb2.DescribeModelRequest(model_name=key.name, model_version=str(key.version))
        answer = await _translated(
            self._management.DescribeModel(request, timeout=self._timeout, metadata=self._keys.management())
        )
        try:
            workers = [worker for model in json.loads(answer.msg) for worker in model["workers"]]
            return any(worker["status"] == "READY" for worker in workers)
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"TorchServe described {key} in a way not understood: {answer.msg[:200]}") from error


async def _translated(call: Awaitable[T]) -> T:
    """The call's answer, or what its failure means."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        code, text = error.code(), _first_line(error)
        if any(part in text for part in _WORKER_GONE):
            raise WorkerGone(f"TorchServe has no worker for the model now: {text}") from error
        if code == grpc.StatusCode.PERMISSION_DENIED:
            text = f"TorchServe refuses the gateway's key ({text}); does torchserve_key_file name its key_file.json?"
            raise EngineError(text) from error
        if code == grpc.StatusCode.NOT_FOUND or text.startswith(_NOT_REGISTERED):
            raise NotRegistered(text) from error
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            raise EngineUnavailable(f"TorchServe does not answer: {text or code.name}") from error
        raise EngineError(f"TorchServe failed: {text or code.name}") from error
    except asyncio.CancelledError:
        # What grpc raises in the calls of a channel that is closed; a cancelled caller is another matter.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise EngineUnavailable("the connection to TorchServe was closed") from None


def _first_line(error: grpc.aio.AioRpcError) -> str:
    """TorchServe adds the Java class in a second line."""
    return (error.details() or "").strip().split("\n")[0]
