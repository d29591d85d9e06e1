"""The bytes between gateway and model: a JSON header and float arrays, read without copying.

Layout, all integers little-endian::

    4 bytes   magic "FME1"
    4 bytes   length of the head, unsigned
    head      JSON: {"header": {...}, "arrays": [[name, dtype, [shape]], ...]}
    padding   zeros to a multiple of 8
    arrays    each row-major and padded with zeros to a multiple of 8
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"FME1"
DTYPES = ("<f4", "<f8")

_PREFIX = struct.Struct("<4sI")
_ALIGNMENT = 8


class EnvelopeError(ValueError):
    """Bytes are not an envelope, are cut short, or hold an array of another type; or such an array was to be packed."""


def pack(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bytes:
    """Write one envelope.

    Args:
        header: what JSON can hold; no NaN or infinity.
        arrays: float32 or float64 arrays by name.

    Raises:
        EnvelopeError: an array is of another dtype.

    Example:
        >>> header, arrays = unpack(pack({"op": "log_prob"}, {"rows": np.zeros((2, 3), "<f4")}))
        >>> header, arrays["rows"].shape
        ({'op': 'log_prob'}, (2, 3))
    """
    chunks: list[bytes | memoryview] = []
    described = []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in DTYPES:
            raise EnvelopeError(f"array {name!r} is {array.dtype}; an envelope carries float32 and float64")
        data = np.ascontiguousarray(array, dtype=dtype)
        described.append([name, dtype, list(array.shape)])
        chunks += [data.tobytes(), _padding(data.nbytes)]
    head = json.dumps({"header": header, "arrays": described}, separators=(",", ":"), allow_nan=False).encode()
    start = _PREFIX.pack(MAGIC, len(head)) + head
    return b"".join([start, _padding(len(start)), *chunks])


def unpack(buffer: bytes | bytearray | memoryview) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read one envelope; the arrays are views into ``buffer``.

    Returns:
        The header and the arrays by name.

    Raises:
        EnvelopeError: the bytes are not exactly one envelope.
    """
    view = memoryview(buffer).cast("B")
    header, described, offset = _unpack_head(view)
    arrays: dict[str, NDArray[Any]] = {}
    for item in described:
        name, dtype, shape = _check_description(item, arrays)
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        if offset + size > len(view):
            raise EnvelopeError(f"array {name!r} needs {size} bytes at {offset}, the envelope ends at {len(view)}")
        arrays[name] = np.frombuffer(view, dtype=dtype, count=count, offset=offset).reshape(shape)
        offset += size + (-size) % _ALIGNMENT
    if offset != len(view):
        raise EnvelopeError(f"the envelope should be {offset} bytes long and has {len(view)}")
    return header, arrays


def _unpack_head(view: memoryview) -> tuple[dict[str, Any], list[Any], int]:
    """The header, the arrays' descriptions, and where the first array begins."""
    if len(view) < _PREFIX.size or view[:4] != MAGIC:
        raise EnvelopeError(f"{len(view)} bytes that do not begin as an envelope does")
    (_, length) = _PREFIX.unpack_from(view)
    end = _PREFIX.size + length
    if end > len(view):
        raise EnvelopeError(f"the head should end at byte {end}, the envelope has {len(view)}")
    try:
        head = json.loads(bytes(view[_PREFIX.size : end]))
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(f"the head is not JSON: {error}") from None
    if not isinstance(head, dict) or not isinstance(head.get("header"), dict):
        raise EnvelopeError("the head holds no header")
    described = head.get("arrays")
    if not isinstance(described, list):
        raise EnvelopeError("the head does not list the arrays")
    return head["header"], described, end + (-end) % _ALIGNMENT


def _check_description(item: Any, known: dict[str, NDArray[Any]]) -> tuple[str, str, list[int]]:
    if not isinstance(item, list) or len(item) != 3:
        raise EnvelopeError(f"an array is described by {item!r}; expected [name, dtype, shape]")
    name, dtype, shape = item
    if not isinstance(name, str) or name in known:
        raise EnvelopeError(f"an array is named {name!r}; expected a name of its own")
    if dtype not in DTYPES:
        raise EnvelopeError(f"array {name!r} is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise EnvelopeError(f"array {name!r} has the shape {shape!r}; expected sizes of at least 0")
    if len(shape) > 8:
        raise EnvelopeError(f"array {name!r} has {len(shape)} dimensions; at most 8 are read")
    return name, dtype, shape


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)
