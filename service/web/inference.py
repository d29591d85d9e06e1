"""``/v2``: the Open Inference Protocol over HTTP, its binary tensors included."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidRequest, NotFound, ServiceError, Unavailable
from service.gateway import Gateway
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
from service.web.answers import error_answer, json_answer
from service.web.body import Body
from service.web.exchange import Exchange, off_loop, while_connected
from service.web.formats.format import number_texts
from service.web.formats.json_format import numbers, read_object
from service.web.negotiation import timeout_seconds

_HEADER_LENGTH = "Inference-Header-Content-Length"
"""How many bytes of a body are JSON, where raw elements follow them."""
_MEMBERS = {"id", "parameters", "inputs", "outputs"}


class InferenceHandlers:
    """What answers under ``/v2``.

    Args:
        gateway: answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def server(self, request: Request) -> Response:
        """What the server is."""
        return json_answer({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        """That the process lives."""
        return json_answer({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether at least one model can be asked."""
        reason = self._gateway.unready_reason
        return json_answer({"ready": reason is None}, 200 if reason is None else 503)

    async def model_ready(self, exchange: Exchange) -> None:
        """Whether a model can be asked."""
        async with exchange.account("GetModel") as account:
            ready, status, name = False, 503, exchange.request.path_params["model"]
            try:
                with exchange.open(account):
                    ready = self._gateway.engine.healthy
            except NotFound:
                status = 404
            except Unavailable:
                pass
            exchange.answer(json_answer({"name": name, "ready": ready}, 200 if ready else status))

    async def model(self, exchange: Exchange) -> None:
        """What a model takes and answers."""
        async with exchange.account("GetModel") as account:
            with exchange.open(account) as served:
                inputs, outputs = describe(served)
                versions = self._gateway.registry.versions(served.key.name)
                described = {
                    "name": served.key.name,
                    "versions": [str(loaded.key.version) for loaded in versions],
                    "platform": PLATFORM,
                    "inputs": list(map(_described, inputs)),
                    "outputs": list(map(_described, outputs)),
                }
                exchange.answer(json_answer(described))

    async def infer(self, exchange: Exchange) -> None:
        """Log-densities of rows, or samples."""
        request = exchange.request
        async with exchange.account("LogProb") as account:
            deadline = self._gateway.deadline(timeout_seconds(request))
            content = await Body(request, self._gateway.settings, deadline).whole()
            asked, values = await off_loop(len(content), partial(_asked, request, content))
            account.method = asked.method
            answer = await while_connected(request, infer(self._gateway, account, asked, deadline))
            size = sum(array.nbytes for array in answer.outputs.values())
            exchange.answer(await off_loop(size, partial(_answered, answer, values)))


def refused(error: ServiceError) -> Response:
    """An error as the protocol writes it: its text alone. The status and the headers are as everywhere."""
    answer = error_answer(error)
    written = json_answer({"error": error.message}, answer.status_code)
    for name in ("Retry-After", "WWW-Authenticate"):
        if name in answer.headers:
            written.headers[name] = answer.headers[name]
    return written


def _asked(request: Request, content: bytes) -> tuple[InferenceRequest, Mapping[str, Any]]:
    """The request, and its JSON.

    Raises:
        InvalidRequest: it cannot be read.
    """
    length = request.headers.get(_HEADER_LENGTH)
    raw = b""
    if length is not None:
        if not length.isdecimal() or int(length) > len(content):
            text = f"{length!r} given; a whole number up to the body's {len(content)} bytes expected"
            raise InvalidRequest.of("MALFORMED_TENSOR", _HEADER_LENGTH, text)
        content, raw = content[: int(length)], content[int(length) :]
    values = read_object(content, _MEMBERS)
    parameters = _object(values.get("parameters"), "parameters")
    outputs = [_object(output, "outputs[]") for output in _list(values.get("outputs"), "outputs")]
    return (
        InferenceRequest(
            model=request.path_params["model"],
            version=request.path_params.get("version", ""),
            inputs=_inputs(values, raw),
            parameters=parameters,
            outputs=[_text(output.get("name"), "outputs[].name") for output in outputs],
        ),
        values,
    )


def _inputs(values: Mapping[str, Any], raw: bytes) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {}
    for index, given in enumerate(_list(values.get("inputs"), "inputs")):
        tensor = _object(given, f"inputs[{index}]")
        name = _text(tensor.get("name"), f"inputs[{index}].name")
        datatype = _text(tensor.get("datatype"), f"{name}.datatype")
        shape = _list(tensor.get("shape"), f"{name}.shape")
        if not all(type(length) is int for length in shape):
            raise InvalidRequest.of("MALFORMED_TENSOR", f"{name}.shape", f"{shape[:8]} given; whole numbers expected")
        if name in inputs:
            raise InvalidRequest.of("MALFORMED_TENSOR", name, "given twice")
        size = _object(tensor.get("parameters"), f"{name}.parameters").get("binary_data_size")
        if size is None:
            dtype = dtype_of(datatype, name)
            inputs[name] = shaped(_elements(tensor.get("data"), name, dtype), shape, name)
            continue
        if type(size) is not int or not 0 <= size <= len(raw):
            text = f"{size!r} given where {len(raw)} bytes follow the JSON"
            raise InvalidRequest.of("MALFORMED_TENSOR", f"{name}.parameters.binary_data_size", text)
        inputs[name], raw = from_bytes(raw[:size], datatype, shape, name), raw[size:]
    if raw:
        raise InvalidRequest.of("MALFORMED_TENSOR", "body", f"{len(raw)} bytes follow that belong to no input")
    return inputs


def _elements(data: Any, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Elements as a list, flat or nested."""
    if dtype.kind in "iu" and isinstance(data, list) and all(type(item) is int for item in data):
        # Whole numbers beyond 2**53, as seeds may be, do not survive as floating-point numbers.
        try:
            return np.array(data, dtype)
        except OverflowError:
            text = f"holds a number that is none of {datatype_of(dtype)}"
            raise InvalidRequest.of("MALFORMED_TENSOR", f"{name}.data", text) from None
    return numbers(data, f"{name}.data", 1).ravel().astype(dtype if dtype.kind == "f" else np.float64)


def _answered(answer: InferenceAnswer, values: Mapping[str, Any]) -> Response:
    """The answer, its tensors as JSON or, where the request says so, as raw elements behind it."""
    everywhere = _object(values.get("parameters"), "parameters").get("binary_data_output", False)
    binary = {
        output["name"]: _object(output.get("parameters"), "parameters").get("binary_data", everywhere)
        for output in values.get("outputs") or ()
    }
    outputs: list[bytes] = []
    raw: list[bytes] = []
    for name, array in answer.outputs.items():
        described: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "shape": list(array.shape),
        }
        if binary.get(name, everywhere):
            elements = to_bytes(array)
            raw.append(elements)
            outputs.append(orjson.dumps(described | {"parameters": {"binary_data_size": len(elements)}}))
        else:
            data = b"[" + b",".join(_texts(array)) + b"]"
            outputs.append(orjson.dumps(described)[:-1] + b',"data":' + data + b"}")
    head: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if isinstance(values.get("id"), str):
        head["id"] = values["id"]
    if answer.parameters:
        head["parameters"] = answer.parameters
    text = orjson.dumps(head)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    if not raw:
        return Response(text, media_type="application/json")
    headers = {_HEADER_LENGTH: str(len(text))}
    return Response(b"".join((text, *raw)), headers=headers, media_type="application/octet-stream")


def _texts(array: NDArray[Any]) -> list[bytes]:
    flat = array.ravel()
    return number_texts(flat, b'"') if flat.dtype.kind == "f" else [str(value).encode() for value in flat.tolist()]


def _described(tensor: TensorDescription) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest.of("WRONG_TYPE", field, f"{str(value)[:40]} given; an object expected")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest.of("WRONG_TYPE", field, f"{str(value)[:40]} given; a list expected")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        given = "missing" if value is None else f"{str(value)[:40]} given"
        raise InvalidRequest.of("WRONG_TYPE", field, f"{given}; a text expected")
    return value
