"""The methods of ``inference.GRPCInferenceService``, the Open Inference Protocol over gRPC."""
# ruff: noqa: N802 - methods are named as the protocol names them

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest, NotFound, Unavailable
from service.gateway import Gateway
from service.generated.inference import inference_service_pb2 as pb
from service.generated.inference import inference_service_pb2_grpc as pb_grpc
from service.inference import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    SERVER_VERSION,
    InferenceAnswer,
    InferenceRequest,
    TensorDescription,
    datatype_of,
    describe,
    dtype_of,
    from_bytes,
    infer,
    shaped,
    to_bytes,
)
from service.rpc.call import CallAccount, Context, deadline_of

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Which field holds the elements of a type; there is none for FP16, which comes raw."""


class InferenceServicer(pb_grpc.GRPCInferenceServiceServicer):
    """Converts messages, delegates to the gateway, converts back.

    Args:
        gateway: answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Whether the process lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Whether at least one model can be asked."""
        return pb.ServerReadyResponse(ready=self._gateway.unready_reason is None)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether this model can be asked."""
        async with CallAccount(self._gateway, "GetModel", context) as account:
            try:
                with self._gateway.open(account, request.name, request.version):
                    return pb.ModelReadyResponse(ready=self._gateway.engine.healthy)
            except (NotFound, Unavailable):
                return pb.ModelReadyResponse(ready=False)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """What the server is."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """What a model takes and answers."""
        async with CallAccount(self._gateway, "GetModel", context) as account:
            with self._gateway.open(account, request.name, request.version) as served:
                inputs, outputs = describe(served)
                return pb.ModelMetadataResponse(
                    name=served.key.name,
                    versions=[str(loaded.key.version) for loaded in self._gateway.registry.versions(served.key.name)],
                    platform=PLATFORM,
                    inputs=map(_described, inputs),
                    outputs=map(_described, outputs),
                )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Log-densities of rows, or samples."""
        async with CallAccount(self._gateway, _method(request), context) as account:
            asked = InferenceRequest(
                model=request.model_name,
                version=request.model_version,
                inputs=_inputs(request),
                parameters={name: _value(parameter) for name, parameter in request.parameters.items()},
                outputs=[output.name for output in request.outputs],
            )
            answer = await infer(self._gateway, account, asked, deadline_of(self._gateway, context))
            return _response(answer, request.id)


def _method(request: pb.ModelInferRequest) -> str:
    """The method of the density service that a request is, before it is read."""
    names = {tensor.name for tensor in request.inputs}
    return "Sample" if "rows" not in names and ("count" in names or "count" in request.parameters) else "LogProb"


def _inputs(request: pb.ModelInferRequest) -> dict[str, NDArray[Any]]:
    """The tensors by name.

    Raises:
        InvalidRequest: type, shape and elements of one do not say the same.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        text = f"{len(raw)} given for {len(request.inputs)} inputs; one for each expected, or none"
        raise InvalidRequest.of("MALFORMED_TENSOR", "raw_input_contents", text)
    inputs: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in inputs:
            raise InvalidRequest.of("MALFORMED_TENSOR", tensor.name, "given twice")
        if raw:
            inputs[tensor.name] = from_bytes(raw[index], tensor.datatype, tensor.shape, tensor.name)
        else:
            inputs[tensor.name] = _typed(tensor)
    return inputs


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> NDArray[Any]:
    """A tensor whose elements are in the field of their type."""
    dtype = dtype_of(tensor.datatype, tensor.name)
    holder = _CONTENTS.get(tensor.datatype)
    given = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if holder is None or given not in ([], [holder]):
        expected = holder or "raw_input_contents"
        text = f"{', '.join(given) or 'nothing'} given; {expected} expected for {tensor.datatype}"
        raise InvalidRequest.of("MALFORMED_TENSOR", f"{tensor.name}.contents", text)
    try:
        # As a list, since only from that does numpy refuse what is out of range.
        elements = np.array(list(getattr(tensor.contents, holder)), dtype)
    except OverflowError:
        text = f"holds a number that is none of {tensor.datatype}"
        raise InvalidRequest.of("MALFORMED_TENSOR", f"{tensor.name}.contents", text) from None
    return shaped(elements, tensor.shape, tensor.name)


def _value(parameter: pb.InferParameter) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)


def _described(tensor: TensorDescription) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _response(answer: InferenceAnswer, request_id: str) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request_id)
    for name, value in answer.parameters.items():
        if isinstance(value, int):
            response.parameters[name].int64_param = value
        else:
            response.parameters[name].string_param = value
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        response.raw_output_contents.append(to_bytes(array))
    return response
