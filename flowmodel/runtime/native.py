"""The kernels in place of TorchScript, where they are installed, cover the flow and give the same answers.

On the CPU that is native code, on a GPU the Triton kernel. An archive carries the modules of this package alone, so a
stock TorchServe container has neither and answers by TorchScript; one with ``flowmodel`` installed has both.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .device import FUSED_STAGES, LAUNCHED_STAGES, DeviceFlow
from .noise import standard_normal

_LOG = logging.getLogger(__name__)

_CPU = torch.device("cpu")

_CHECKED_ROWS = 64

_ROUNDINGS = 256
"""How far apart the two may be, in roundings of the larger answers: they add in another order."""


class Native(Protocol):
    """What a scorer needs of whatever answers in place of plain TorchScript."""

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
    return native if _agrees(module, native, "the native code") else None


def device_flow(module: Any, device: torch.device) -> Native:
    """The flow of a TorchScript scorer on a GPU: the fused kernel if it can answer, else TorchScript in CUDA graphs."""
    try:
        from flowmodel.kernel.cuda.fused_flow import FusedFlow
        from flowmodel.kernel.native_flow import NotCoveredError
    except ImportError:
        _LOG.info("TorchScript answers on the GPU: the fused kernel or Triton is not installed")
    else:
        try:
            fused = DeviceFlow(FusedFlow(module, device), module, device, "triton", FUSED_STAGES, splits=False)
            if _agrees(module, fused, "the fused kernel", device):
                return fused
        except (NotCoveredError, AttributeError) as reason:
            _LOG.info("TorchScript answers, not the fused kernel: %s", reason)
        except Exception as error:  # Triton calls compilers that a machine may lack
            _LOG.warning("TorchScript answers, the fused kernel does not run here: %s", error)
    return DeviceFlow(module, module, device, "torchscript", LAUNCHED_STAGES, splits=True)


def _agrees(module: Any, native: Native, what: str, device: torch.device = _CPU) -> bool:
    difference = _difference(module, native, device)
    if difference > _ROUNDINGS:
        _LOG.warning(
            "TorchScript answers, not %s: their answers are %.3g roundings apart, and %d can be explained",
            what,
            difference,
            _ROUNDINGS,
        )
    return difference <= _ROUNDINGS


def _difference(module: Any, native: Native, device: torch.device) -> float:
    """The largest difference between the two on samples of the flow, in roundings of each column's or row's size."""
    size, context_size = int(module.event_size), int(module.context_size)
    # A scorer without it was exported before there were bases that need more.
    noise = standard_normal(0, 0, _CHECKED_ROWS, int(getattr(module, "noise_size", size)))
    context = None
    if context_size:
        location, scale = module.context_location.cpu().numpy(), module.context_scale.cpu().numpy()
        context = location + scale * standard_normal(1, 0, _CHECKED_ROWS, context_size)
    given = None if context is None else torch.from_numpy(context).to(device)
    with torch.inference_mode():
        answers = module.sample(torch.from_numpy(noise).to(device), given)
        rows, log_prob = (answer.cpu().numpy() for answer in answers)
        scored = module.log_prob(torch.from_numpy(rows.copy()).to(device), given).cpu().numpy()
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
