"""The native code in place of TorchScript, where it is installed, covers the flow and gives the same answers.

An archive carries the modules of this package alone, so a stock TorchServe container has no native code and answers by
TorchScript; one with ``flowmodel`` installed has both.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .noise import standard_normal

_LOG = logging.getLogger(__name__)

_CHECKED_ROWS = 64

_ROUNDINGS = 256
"""How far apart the two may be, in roundings of the larger answers: they add in another order."""


class Native(Protocol):
    """What a scorer needs of the native code."""

    instruction_set: str

    def log_prob(self, rows: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1) -> NDArray[Any]:
        """Log-density of ``rows[N, D]``: ``[N]``."""

    def sample(
        self, noise: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """``noise[N, D]`` to samples ``[N, D]`` and their log-densities ``[N]``."""


def native_flow(module: Any) -> Native | None:
    """The flow of a TorchScript scorer on the CPU in native code, or ``None`` where TorchScript has to answer."""
    try:
        from flowmodel.kernel.native_flow import NativeFlow, NotCoveredError
    except ImportError:
        return None
    try:
        native = NativeFlow(module)
    except (NotCoveredError, AttributeError) as reason:  # an older scorer, or another's, is built of other parts
        _LOG.info("TorchScript answers, not the native code: %s", reason)
        return None
    difference = _difference(module, native)
    if difference > _ROUNDINGS:
        _LOG.warning(
            "TorchScript answers, not the native code: their answers are %.3g roundings apart, and %d can be explained",
            difference,
            _ROUNDINGS,
        )
        return None
    return native


def _difference(module: Any, native: Native) -> float:
    """The largest difference between the two on samples of the flow, in roundings of each column's or row's size."""
    size, context_size = int(module.event_size), int(module.context_size)
    noise = standard_normal(0, 0, _CHECKED_ROWS, size)
    context = None
    if context_size:
        location, scale = module.context_location.numpy(), module.context_scale.numpy()
        context = location + scale * standard_normal(1, 0, _CHECKED_ROWS, context_size)
    given = None if context is None else torch.from_numpy(context)
    with torch.inference_mode():
        rows, log_prob = (answer.numpy() for answer in module.sample(torch.from_numpy(noise), given))
        scored = module.log_prob(torch.from_numpy(rows.copy()), given).numpy()
    native_rows, native_log_prob = native.sample(noise, context)
    epsilon = float(np.finfo(rows.dtype).eps)
    return max(
        _roundings(rows, native_rows, np.maximum(np.abs(rows).max(0), 1e-30), epsilon),
        _roundings(log_prob, native_log_prob, _size(log_prob), epsilon),
        _roundings(scored, native.log_prob(rows, context), _size(scored), epsilon),
    )


def _size(log_prob: NDArray[Any]) -> NDArray[Any]:
    finite = np.abs(log_prob[np.isfinite(log_prob)])
    least = max(1.0, float(np.median(finite)) if len(finite) else 1.0)
    sizes: NDArray[Any] = np.maximum(np.abs(log_prob), least)
    return sizes


def _roundings(expected: NDArray[Any], answered: NDArray[Any], size: NDArray[Any], epsilon: float) -> float:
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(answered)):
        return float("inf")
    apart = np.abs(expected.astype(np.float64) - answered) / size / epsilon
    return float(apart[finite].max(initial=0.0))
