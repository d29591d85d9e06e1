"""What a content type has to offer, and numbers as text, which two of them write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import orjson

from service.errors import RowError
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import Signature
from service.tensors import FloatArray


@dataclass(frozen=True, slots=True)
class Table:
    """Rows read from a body.

    Attributes:
        rows: ``[N, D]`` or ``[N, *event_shape]``, NaN where a row could not be read.
        context: ``[N, C]``, ``[1, C]`` or None.
        unreadable: why rows could not be read, ascending.
    """

    rows: FloatArray
    context: FloatArray | None
    unreadable: list[RowError] = field(default_factory=list)


class Format(Protocol):
    """One content type."""

    content_type: str

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows to score.

        Raises:
            InvalidRequest: the body as a whole cannot be read.
        """
        ...

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """The answer to ``LogProb``."""
        ...

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """The answer to ``Sample``."""
        ...


def number_texts(values: FloatArray, quote: bytes = b"") -> list[bytes]:
    """Each number of ``values[N]`` in the fewest digits that read back to the same bits.

    What is not finite is written as ``NaN``, ``Infinity`` and ``-Infinity`` between the given quotes.

    Example:
        >>> number_texts(np.array([0.1, -np.inf], np.float32), quote=b'"')
        [b'0.1', b'"-Infinity"']
    """
    texts = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    for index in np.flatnonzero(~np.isfinite(values)):
        value = values[index]
        name = b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity"
        texts[index] = quote + name + quote
    return texts
