"""The scorer as a user of plain torch loads it: TorchScript, nothing of this library."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

DIMS = 8

PART_ROWS = 4096
"""More rows at once leave the caches, and take several times as long for each."""


class PlainScorer:
    """``scorer.pt`` by ``torch.jit``, rows as raw little-endian float32 in and log-densities out.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._module: Any = torch.jit.load(path).eval()
        # Two threads wait for each other by spinning, which the rest of the server then lacks.
        torch.set_num_threads(1)
        # TorchScript compiles for the shapes of its first calls.
        for count in (1, 2, 64, 64, PART_ROWS, PART_ROWS):
            self.log_prob(np.zeros((count, DIMS), np.float32))

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """Log-densities ``[N]`` of rows ``[N, 8]``."""
        with torch.inference_mode():
            parts = [self._module.log_prob(part, None) for part in torch.from_numpy(rows).split(PART_ROWS)]
            return (torch.cat(parts) if len(parts) > 1 else parts[0]).numpy()

    def score(self, body: bytes) -> bytes:
        """The same of one request's bytes."""
        return self.log_prob(rows_of(body)).tobytes()

    def score_all(self, bodies: list[bytes]) -> list[bytes]:
        """The same of several requests, by one call of the model."""
        rows = [rows_of(body) for body in bodies]
        log_prob = self.log_prob(np.concatenate(rows) if len(rows) > 1 else rows[0])
        ends = np.cumsum([len(part) for part in rows])
        return [part.tobytes() for part in np.split(log_prob, ends[:-1])]


def rows_of(body: bytes) -> np.ndarray:
    """Rows ``[N, 8]`` of one request."""
    return np.frombuffer(bytearray(body), np.float32).reshape(-1, DIMS)
