"""``application/octet-stream``: rows of little-endian float32 in, log-densities of little-endian float32 out."""

from __future__ import annotations

import numpy as np

from service.errors import InvalidRequest
from service.gateway import Samples, Scores
from service.registry import ServedModel
from service.signature import Signature
from service.web.formats.format import Table

_FLOAT = np.dtype("<f4")


class BinaryFormat:
    """Numbers one after the other, row by row; a row's context follows its features.

    NaN answers a bad row. Model, version, seed and the number of bad rows are in the answer's headers.
    """

    content_type = "application/octet-stream"

    def read(self, body: bytes, signature: Signature) -> Table:
        """Rows, and contexts where the model takes any."""
        width = signature.event_size + signature.context_size
        row_bytes = width * _FLOAT.itemsize
        if len(body) % row_bytes:
            whole, left = divmod(len(body), row_bytes)
            raise InvalidRequest.of(
                "TRUNCATED",
                "body",
                f"{len(body)} bytes given, {whole} rows and {left} bytes over; a row of {signature.model} is {width} "
                f"little-endian float32, {row_bytes} bytes",
            )
        values = np.frombuffer(body, _FLOAT).reshape(-1, width)
        context = values[:, signature.event_size :] if signature.context_size else None
        return Table(values[:, : signature.event_size], context)

    def write_scores(self, served: ServedModel, scores: Scores) -> bytes:
        """Log-densities ``[N]``."""
        return scores.log_prob.astype(_FLOAT).tobytes()

    def write_samples(self, served: ServedModel, samples: Samples, with_log_prob: bool) -> bytes:
        """Samples ``[count, D]``; with ``with_log_prob``, each followed by its log-density."""
        flat = samples.samples.reshape(len(samples.samples), -1).astype(_FLOAT)
        if with_log_prob:
            flat = np.column_stack((flat, samples.log_prob.astype(_FLOAT)))
        return flat.tobytes()
