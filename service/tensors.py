"""Tensors of the wire to numpy and back, without copying on the way in."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest, Violation
from service.generated.density.v1 import density_service_pb2 as pb

_LITTLE_ENDIAN = sys.byteorder == "little"

FloatArray = NDArray[Any]
"""An array of float32 or float64."""

_DTYPES: dict[int, np.dtype[np.float32] | np.dtype[np.float64]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_DATA_TYPES = {"f4": pb.DATA_TYPE_FLOAT32, "f8": pb.DATA_TYPE_FLOAT64}


def differences(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Absolute difference of each pair, 0 where both are the same infinity, infinite where one is NaN.

    Example:
        >>> differences(np.array([1.0, -np.inf, np.nan]), np.array([1.5, -np.inf, 0.0]))
        array([0.5, 0. , inf])
    """
    with np.errstate(invalid="ignore"):
        found = np.where(a == b, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
    return np.nan_to_num(found, nan=np.inf, posinf=np.inf)


def data_type(dtype: np.dtype[Any]) -> pb.DataType.ValueType:
    """The wire's name of a numpy float type."""
    return _DATA_TYPES[f"f{dtype.itemsize}"]


def decode(tensor: pb.Tensor, field: str) -> FloatArray:
    """The array a tensor message holds, as a read-only view of the message's own bytes.

    Args:
        tensor: from a request.
        field: its name in the request, for the error.

    Raises:
        InvalidRequest: type, shape and length do not say the same; every part that is wrong is named.

    Example:
        >>> decode(encode(np.ones((2, 3), np.float32)), "rows").shape
        (2, 3)
    """
    shape = tuple(tensor.shape)
    dtype = _DTYPES.get(tensor.data_type)
    violations = []
    if dtype is None:
        violations.append(Violation(f"{field}.data_type", _unknown_type(tensor.data_type)))
    if not shape:
        violations.append(Violation(f"{field}.shape", "is empty; expected one length for each dimension, as [N, D]"))
    elif min(shape) < 0:
        violations.append(Violation(f"{field}.shape", f"{list(shape)} has a negative length"))
    elif dtype is not None:
        expected, given = math.prod(shape) * dtype.itemsize, len(tensor.data)
        if given != expected:
            name = pb.DataType.Name(tensor.data_type).removeprefix("DATA_TYPE_").lower()
            violations.append(
                Violation(
                    f"{field}.data",
                    f"has {given} bytes; {expected} expected for shape {list(shape)} of {name}",
                )
            )
    if violations or dtype is None:
        raise InvalidRequest("MALFORMED_TENSOR", violations)
    try:
        array: FloatArray = np.frombuffer(tensor.data, dtype).reshape(shape)
    except ValueError:
        # More dimensions, or longer ones, than numpy has room for; the number of bytes may still be right.
        text = f"{len(shape)} dimensions of lengths {list(shape[:8])} given; expected [N, D]"
        raise InvalidRequest.of("MALFORMED_TENSOR", f"{field}.shape", text) from None
    return array


def encode(array: FloatArray) -> pb.Tensor:
    """The message that holds an array, row-major and little-endian."""
    little_endian = array if _LITTLE_ENDIAN and array.dtype.isnative else array.astype(array.dtype.newbyteorder("<"))
    return pb.Tensor(data_type=data_type(array.dtype), shape=array.shape, data=little_endian.tobytes())


def _unknown_type(value: pb.DataType.ValueType) -> str:
    given = pb.DataType.Name(value) if value in pb.DataType.values() else str(value)
    return f"{given} given; DATA_TYPE_FLOAT32 or DATA_TYPE_FLOAT64 expected"
