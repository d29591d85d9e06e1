"""``application/octet-stream``: rows of little-endian float32 in, log-densities of little-endian float32 out."""

from __future__ import annotations

import numpy as np

from service.errors import InvalidRequest, ServiceError
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import Signature
from service.web.formats.format import StreamedFormat, Table, no_rows, refuse_longer, table_of

_FLOAT = np.dtype("<f4")


class BinaryFormat(StreamedFormat):
    """Numbers one after the other, row by row; a row's context follows its features.

    NaN answers a bad row. Model, version, seed and the number of bad rows are in the answer's headers.
    """

    content_type = "application/octet-stream"

    def reader(self, signature: Signature, most: int) -> BinaryReader:
        """Reads rows as they arrive."""
        return BinaryReader(signature, _FLOAT, most)

    def score_writer(self, served: ServedModel) -> _Scores:
        """Writes log-densities ``[N]``."""
        return _Scores()

    def sample_writer(self, served: ServedModel, seed: int, with_log_prob: bool) -> _Samples:
        """Writes samples ``[count, D]``; with ``with_log_prob``, each followed by its log-density."""
        return _Samples(with_log_prob)


class BinaryReader:
    """Numbers of one type, row by row.

    Args:
        signature: of the model.
        dtype: of each number.
        most: bytes that one row may have.
    """

    def __init__(self, signature: Signature, dtype: np.dtype[np.generic], most: int) -> None:
        self._signature = signature
        self._dtype = dtype
        self._width = signature.event_size + signature.context_size
        self._row_bytes = self._width * dtype.itemsize
        self._rest = b""
        self._read = 0
        refuse_longer(self._row_bytes, most, "a row")

    @property
    def rows(self) -> int:
        """Rows read so far."""
        return self._read // self._row_bytes

    def feed(self, data: bytes) -> list[Table]:
        """The rows that this part of the body completes."""
        data = self._rest + data if self._rest else data
        whole = len(data) // self._row_bytes * self._row_bytes
        self._rest = data[whole:]
        self._read += whole
        if not whole:
            return []
        values = np.frombuffer(data, self._dtype, whole // self._dtype.itemsize).reshape(-1, self._width)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float32 if self._dtype == ">f4" else np.float64)
        return [table_of(values, self._signature)]

    def finish(self) -> list[Table]:
        """Nothing; a row that is not complete is refused."""
        if self._rest:
            raise InvalidRequest.of(
                "TRUNCATED",
                "body",
                f"{self._read + len(self._rest)} bytes given, {self.rows} rows and {len(self._rest)} bytes over; "
                f"a row of {self._signature.model} is {self._width} little-endian {self._dtype.name}, "
                f"{self._row_bytes} bytes",
            )
        if not self._read:
            raise no_rows()
        return []


class _Bare:
    """Numbers have nothing around them, and no way to say that some are missing."""

    def head(self) -> bytes:
        return b""

    def tail(self) -> bytes:
        return b""

    def broken(self, error: ServiceError) -> bytes:
        return b""


class _Scores(_Bare):
    def part(self, answer: Scores) -> bytes:
        return answer.log_prob.astype(_FLOAT).tobytes()


class _Samples(_Bare):
    def __init__(self, with_log_prob: bool) -> None:
        self._with_log_prob = with_log_prob

    def part(self, answer: Samples) -> bytes:
        flat = answer.samples.reshape(len(answer.samples), -1).astype(_FLOAT)
        if self._with_log_prob:
            flat = np.column_stack((flat, answer.log_prob.astype(_FLOAT)))
        return flat.tobytes()
