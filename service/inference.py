"""The Open Inference Protocol, version 2, for density models; what its gRPC and its HTTP form both delegate to.

A request with the input ``rows`` is ``LogProb``, one without is ``Sample``, with ``count``, ``seed`` and ``start`` as
inputs or as parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmodel import __version__
from service.errors import InvalidRequest, Violation
from service.gateway import Gateway, Samples, Scores
from service.metrics import Request as Account
from service.registry import ServedModel
from service.tensors import FloatArray

SERVER_NAME = "flowmodel"
SERVER_VERSION = __version__
EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "flowmodel_torchscript"

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's types of numbers. Its BYTES are never taken."""

_NAMES = {dtype.str.lstrip("<|"): name for name, dtype in DATATYPES.items()}
_TENSORS = ("rows", "context")
_SCALARS = ("count", "seed", "start")


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request in either form.

    Attributes:
        model: its name.
        version: in decimal digits; empty for the default one.
        inputs: tensors by name.
        parameters: of the request.
        outputs: names of the tensors that are wanted; empty for all.
    """

    model: str
    version: str
    inputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Any]
    outputs: Sequence[str] = ()

    @property
    def method(self) -> str:
        """The method of the density service that answers it."""
        draws = "rows" not in self.inputs and ("count" in self.inputs or "count" in self.parameters)
        return "Sample" if draws else "LogProb"


@dataclass(frozen=True, slots=True)
class InferenceAnswer:
    """An answer in either form.

    Attributes:
        model: that answered.
        version: that answered.
        outputs: tensors by name, in order.
        parameters: ``row_errors`` and ``first_row_error``, where rows have no answer.
    """

    model: str
    version: str
    outputs: dict[str, NDArray[Any]]
    parameters: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """A tensor that a model takes or answers; -1 is the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


async def infer(gateway: Gateway, account: Account, request: InferenceRequest, deadline: float) -> InferenceAnswer:
    """Log-densities or samples.

    Raises:
        ServiceError: see the error table in ``docs/wire.md``.
    """
    unknown = [name for name in request.inputs if name not in (*_TENSORS, *_SCALARS)]
    if unknown:
        text = "unknown; rows and context are taken, or count, seed and start to draw samples"
        raise InvalidRequest("UNKNOWN_INPUT", [Violation(name, text) for name in unknown[:10]])
    seed = _scalar(request, "seed")
    if request.method == "Sample" and seed is not None:
        account.affinity = f"seed {seed}"
    with gateway.open(account, request.model, request.version) as served:
        context = _floats(request.inputs["context"], "context") if "context" in request.inputs else None
        if request.method == "Sample":
            offered: Sequence[str] = ("samples", "log_prob", "seed")
            _check_outputs(request.outputs, offered)
            count, start = _scalar(request, "count"), _scalar(request, "start")
            drawn = await gateway.sample(served, count or 0, seed, context, deadline, start=start or 0)
            return _chosen(_drawn(served, drawn), request.outputs)
        if "rows" not in request.inputs:
            text = "missing; give it to have rows scored, or count (an input or a parameter) to draw samples"
            raise InvalidRequest.of("MISSING_INPUT", "rows", text)
        _check_outputs(request.outputs, ("log_prob",))
        rows = _floats(request.inputs["rows"], "rows")
        return _scored(served, await gateway.log_prob(served, rows, context, deadline))


def describe(served: ServedModel) -> tuple[list[TensorDescription], list[TensorDescription]]:
    """What a model takes and what it answers when rows are scored."""
    signature, datatype = served.signature, datatype_of(served.dtype)
    inputs = [TensorDescription("rows", datatype, (-1, *signature.event_shape))]
    if signature.context_shape is not None:
        inputs.append(TensorDescription("context", datatype, (-1, *signature.context_shape)))
    return inputs, [TensorDescription("log_prob", datatype, (-1,))]


def dtype_of(datatype: str, name: str) -> np.dtype[Any]:
    """Numpy's type for the protocol's.

    Raises:
        InvalidRequest: the tensor called ``name`` is of no type of numbers.
    """
    if datatype not in DATATYPES:
        raise InvalidRequest.of("WRONG_TYPE", f"{name}.datatype", f"{datatype!r} given; FP32 or FP64 expected")
    return DATATYPES[datatype]


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's type for numpy's.

    Example:
        >>> datatype_of(np.dtype(np.float32))
        'FP32'
    """
    return _NAMES[dtype.str[1:]]


def shaped(array: NDArray[Any], shape: Sequence[int], name: str) -> NDArray[Any]:
    """Elements in the shape that is given beside them.

    Raises:
        InvalidRequest: it is no shape, or one of another size.
    """
    if not shape or min(shape) < 0 or len(shape) > 8:
        raise InvalidRequest.of("MALFORMED_TENSOR", f"{name}.shape", f"{list(shape)[:8]} given; expected as [N, D]")
    if math.prod(shape) != array.size:
        text = f"{array.size} elements given; {math.prod(shape)} expected for shape {list(shape)}"
        raise InvalidRequest.of("MALFORMED_TENSOR", name, text)
    return array.reshape(tuple(shape))


def from_bytes(data: bytes, datatype: str, shape: Sequence[int], name: str) -> NDArray[Any]:
    """A tensor of raw elements, row-major and little-endian, as a view of them.

    Raises:
        InvalidRequest: type, shape and length do not say the same.
    """
    dtype = dtype_of(datatype, name)
    if len(data) % dtype.itemsize:
        text = f"{len(data)} bytes given, which are no whole number of {datatype}"
        raise InvalidRequest.of("MALFORMED_TENSOR", name, text)
    return shaped(np.frombuffer(data, dtype), shape, name)


def to_bytes(array: NDArray[Any]) -> bytes:
    """The elements of a tensor, row-major and little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _floats(array: NDArray[Any], name: str) -> FloatArray:
    """Numbers as float32 where they were no more, else as float64."""
    if array.dtype.kind == "b":
        raise InvalidRequest.of("WRONG_TYPE", f"{name}.datatype", "BOOL given; FP32 or FP64 expected")
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.float64)


def _scalar(request: InferenceRequest, name: str) -> int | None:
    """A whole number that is an input of one element, or a parameter; None when it is neither."""
    value: Any = request.parameters.get(name)
    if name in request.inputs:
        array = request.inputs[name]
        if array.size != 1:
            raise InvalidRequest.of("WRONG_SHAPE", name, f"shape {list(array.shape)} given; one number expected, [1]")
        value = array.reshape(()).item()
    if value is None:
        return None
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest.of("NOT_A_NUMBER", name, f"{value!r} given; a whole number expected")
    return value


def _check_outputs(wanted: Sequence[str], offered: Sequence[str]) -> None:
    unknown = [name for name in wanted if name not in offered]
    if unknown:
        text = f"no output of this request; it has {', '.join(offered)}"
        raise InvalidRequest("UNKNOWN_OUTPUT", [Violation(name, text) for name in unknown[:10]])


def _scored(served: ServedModel, scores: Scores) -> InferenceAnswer:
    answer = InferenceAnswer(served.key.name, str(served.key.version), {"log_prob": scores.log_prob})
    if scores.row_errors:
        first = scores.row_errors[0]
        answer.parameters["row_errors"] = int(np.isnan(scores.log_prob).sum())
        answer.parameters["first_row_error"] = f"row {first.row}: {first.message}"
    return answer


def _drawn(served: ServedModel, drawn: Samples) -> InferenceAnswer:
    outputs = {"samples": drawn.samples, "log_prob": drawn.log_prob, "seed": np.array([drawn.seed], np.uint64)}
    return InferenceAnswer(served.key.name, str(served.key.version), outputs)


def _chosen(answer: InferenceAnswer, wanted: Sequence[str]) -> InferenceAnswer:
    if not wanted:
        return answer
    outputs = {name: array for name, array in answer.outputs.items() if name in wanted}
    return InferenceAnswer(answer.model, answer.version, outputs, answer.parameters)
