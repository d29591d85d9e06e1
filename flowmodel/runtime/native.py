"""The kernels in place of TorchScript, where they are installed, cover the flow and give the same answers.

On the CPU that is native code, on a GPU the Triton kernel. An archive carries the modules of this package alone, so a
stock TorchServe container has neither and answers by TorchScript; one with ``flowmodel`` installed has both.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .agreement import disagreement
from .device import FUSED_STAGES, LAUNCHED_STAGES, DeviceFlow
from .noise import MAX_SEED, Draw, normal_rows

_LOG = logging.getLogger(__name__)

_CPU = torch.device("cpu")


Noise: TypeAlias = Callable[[Sequence[Draw], int, int], NDArray[np.float64]]
"""As :func:`.noise.normal_rows`: draws, numbers in a row and threads to rows."""

_NOISE_ROUNDING = 1e-14
"""How far a normal number may be from numpy's; both are right to some units of the last place of at most 8.6."""


class Native(Protocol):
    """What a scorer needs of whatever answers in place of plain TorchScript."""

    instruction_set: str

    def log_prob(
        self, rows: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1, *, locked: bool = False
    ) -> NDArray[Any]:
        """Log-density of ``rows[N, D]``: ``[N]``; ``locked`` keeps the interpreter lock where that is possible."""

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
    return native if _agrees(module, native, "the native code", _CPU, NativeFlow) else None


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


def native_noise() -> Noise | None:
    """Normal numbers by native code, or ``None`` where numpy has to make them."""
    try:
        from flowmodel.kernel import library
    except ImportError:
        return None
    names = library.available()
    return _agreeing_noise(names[0]) if names else None


@functools.cache
def _agreeing_noise(instruction_set: str) -> Noise | None:
    from flowmodel.kernel.native_noise import NativeNoise

    noise = NativeNoise(instruction_set)
    draws = [Draw(0, 0, 200), Draw(MAX_SEED, 2**63, 9)]
    difference = max(float(np.abs(noise(draws, size, 2) - normal_rows(draws, size)).max()) for size in (1, 7))
    if difference <= _NOISE_ROUNDING:
        return noise
    _LOG.warning("numpy makes the noise, not the native code: their numbers are %.3g apart", difference)
    return None


def _agrees(
    module: Any, native: Native, what: str, device: torch.device, twin: Callable[[Any], Native] | None = None
) -> bool:
    difference = disagreement(module, native, device, twin)
    if difference is not None:
        _LOG.warning("TorchScript answers, not %s: %s", what, difference)
    return difference is None
