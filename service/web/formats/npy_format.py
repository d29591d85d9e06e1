"""``application/x-npy``: a NumPy array file of rows in, one of log-densities or samples out; nothing is unpickled."""

from __future__ import annotations

import ast
import io
import re
import threading
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import Signature
from service.tensors import FloatArray
from service.web.formats.binary_format import BinaryReader
from service.web.formats.format import Table, columns_of, joined, no_rows

_MAGIC = np.lib.format.MAGIC_PREFIX
_LITERALS = threading.Lock()
"""One header at a time: of two threads in Python 3.11's parser of literals, one may end with a SystemError."""
_MOST_HEADER_BYTES = 10_000
_NUMBERS = re.compile(r"[<>=|]?[?bBhHiIlLqQefdgcuOSUVMm]\d{0,4}")


class NpyFormat:
    """An array ``[N, D]`` or ``[N, *event_shape]``, float or whole; for a conditional model ``[N, D + C]``.

    It can be read as it arrives; it cannot be written before the number of rows is known.
    """

    content_type = "application/x-npy"

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows, and contexts where the model takes any."""
        reader = self.reader(signature, len(body) + 1)
        return joined([*reader.feed(body), *reader.finish()])

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """Log-densities ``[N]`` in the model's type."""
        return _file(scores.log_prob)

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """Samples ``[count, *event_shape]``; with ``with_log_prob``, ``[count, D + 1]``, the log-density last."""
        if not with_log_prob:
            return _file(samples.samples)
        return _file(np.column_stack((samples.samples.reshape(len(samples.samples), -1), samples.log_prob)))

    def reader(self, signature: Signature, most: int) -> _Reader:
        """Reads rows as they arrive."""
        return _Reader(signature, most)

    def score_writer(self, served: ServedModel) -> None:
        """None: the header holds the number of rows."""

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> None:
        """None: the header holds the number of rows."""


class _Reader:
    def __init__(self, signature: Signature, most: int) -> None:
        self._signature = signature
        self._most = most
        self._head = b""
        self._rows: BinaryReader | None = None
        self._expected = 0

    def feed(self, data: bytes) -> list[Table]:
        if self._rows is not None:
            return self._rows.feed(data)
        self._head += data
        size = _header_size(self._head)
        if size is None or len(self._head) < size:
            return []
        self._rows = self._begin(self._head[:size])
        data, self._head = self._head[size:], b""
        return self._rows.feed(data)

    def finish(self) -> list[Table]:
        if self._rows is None:
            raise _malformed(f"{len(self._head)} bytes given that are no header of an .npy file")
        self._rows.finish()
        if self._rows.rows != self._expected:
            text = f"{self._rows.rows} rows given where its header says {self._expected}"
            raise InvalidRequest.of("TRUNCATED", "body", text)
        return []

    def _begin(self, header: bytes) -> BinaryReader:
        """Take up the header: what the numbers are and how many."""
        shape, fortran_order, dtype = _described(header)
        if dtype.hasobject:
            raise _malformed("its numbers are pickled objects, which are never unpickled here; save an array of floats")
        if dtype.kind not in "fiu" or dtype.itemsize > 8 or (dtype.itemsize < 2 and dtype.kind == "f"):
            raise InvalidRequest.of("WRONG_TYPE", "body", f"numbers of {dtype} given; float32 or float64 expected")
        signature = self._signature
        width = signature.event_size + signature.context_size
        if shape and shape[0] == 0:
            raise no_rows()
        nested = shape[1:] == signature.event_shape and not signature.context_size
        if not shape or (shape[1:] != (width,) and not nested):
            names = ", ".join(columns_of(signature)[:8])
            text = f"shape {list(shape)} given, [N, {width}] expected: a row of {signature.model} is {names}"
            raise InvalidRequest.of("WRONG_SHAPE", "body", text)
        if fortran_order and min(len(shape), width) > 1 and shape[0] > 1:
            text = "the array is in Fortran order; save np.ascontiguousarray(array)"
            raise InvalidRequest.of("WRONG_SHAPE", "body", text)
        self._expected = shape[0]
        return BinaryReader(signature, dtype, self._most)


def _described(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and the numbers' type.

    numpy's own reader would go on to guess at headers that Python 2 wrote, and warn.
    """
    try:
        text = header[10 if header[6] == 1 else 12 :].decode("utf-8")
        with _LITERALS:
            values = ast.literal_eval(text.strip())
        shape, fortran_order = values["shape"], values["fortran_order"]
        descr = values["descr"]
        # Of the other kinds of text, some make numpy warn; a list describes a record, which is no number.
        if not isinstance(descr, str) or not _NUMBERS.fullmatch(descr):
            text = f"numbers of {str(descr)[:40]} given; float32 or float64 expected"
            raise InvalidRequest.of("WRONG_TYPE", "body", text)
        dtype: np.dtype[Any] = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise _malformed("its header is no description of an array") from None
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise _malformed(f"its shape is {str(shape)[:40]}")
    if not isinstance(fortran_order, bool):
        raise _malformed(f"its fortran_order is {str(fortran_order)[:40]}")
    return shape, fortran_order, dtype


def _header_size(head: bytes) -> int | None:
    """How many bytes the header has, once enough of it is there."""
    if not _MAGIC.startswith(head[: len(_MAGIC)]):
        raise _malformed("it does not begin as an .npy file does")
    if len(head) < 12:
        return None
    if head[6] not in (1, 2, 3):
        raise _malformed(f"it is of version {head[6]} of the format; 1 to 3 are read")
    length_bytes = 2 if head[6] == 1 else 4
    size = 8 + length_bytes + int.from_bytes(head[8 : 8 + length_bytes], "little")
    if size > _MOST_HEADER_BYTES + 12:
        raise _malformed(f"its header has {size} bytes; at most {_MOST_HEADER_BYTES} expected")
    return size


def _file(array: FloatArray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest.of("MALFORMED_NPY", "body", f"is no .npy file that is read here: {why}")
