"""One exported scorer, numpy in and numpy out: the only way in which any engine calls a model.

On the CPU the native code answers where :mod:`.native` finds that it can; a row's bits are then the same whatever else
is in its batch and however many threads compute it, by construction. On a GPU :mod:`.device` answers, the same to
float32 rounding. Elsewhere TorchScript does, and so far as torch lets one say so, a row's result does not depend on
what else is in its batch either: batches are padded to a multiple of :data:`PAD_ROWS` rows, which puts each row through
the vectorised path of the elementwise kernels and the matrix products, never through their remainders, and rows are
spread over threads here instead of inside torch, which divides the sums of a matrix product when it has few rows. On
CPU with one torch thread the bits were found equal for every batch size and position tried, at 1 to 200 dimensions and
16 to 512 hidden units; it is measured, not promised.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .native import device_flow, native_flow, native_noise
from .noise import Draw, check_draw, normal_rows

__all__ = ["PAD_ROWS", "Draw", "Scorer", "ScoringError", "explain_failure", "prepare_torch"]

PAD_ROWS = 32
"""Two AVX-512 vectors of float32: the step of torch's vectorised loops."""

_MIN_PART_ROWS = 256
"""Fewer rows are not worth handing to another thread."""

_MAX_PART_ROWS = 2048
"""More rows at once leave the cache, and only take memory."""


class ScoringError(ValueError):
    """The model cannot take this input.

    Attributes:
        reason: upper snake case, for programs.
        field: the part of the request that is wrong, e.g. ``"rows"``.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


def prepare_torch() -> None:
    """Set this process up to score: full float32 precision, one torch thread (rows are spread over threads instead).

    These are settings of the whole process. A server calls this once; a library must not.
    """
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    if torch.backends.cuda.matmul.allow_tf32 or torch.get_float32_matmul_precision() != "highest":
        raise RuntimeError("torch will not keep float32 matrix products at full precision")


def explain_failure(error: Exception) -> str:
    """A model's failure in one line: of a TorchScript error the last, which says what, while the others say where."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the model failed: {lines[-1]}"


class Scorer:
    """A loaded ``scorer.pt``. Its methods may be called from several threads at once.

    Args:
        module: the TorchScript module.
        device: where its buffers are.
        pool: threads that TorchScript's share of a call is spread over; none computes in the calling thread.
        threads: how many may compute one call. The native code starts its own, TorchScript needs the pool.
        native: whether the native code, or on a GPU the fused kernel and CUDA graphs, may answer in place of plain
            TorchScript.

    Attributes:
        event_size: D, the width of a row.
        context_size: C, the width of a context row; 0 for a model without context.
        noise_size: how many standard normal numbers one sample takes; D, but for a few base distributions.
        feature_names: D names.
        context_names: C names.
        dtype: of the results.
        answered_by: ``torchscript``, the instruction set of the native code, or ``triton``.
    """

    event_size: int
    context_size: int
    noise_size: int
    feature_names: list[str]
    context_names: list[str]
    dtype: np.dtype[Any]
    answered_by: str

    def __init__(
        self,
        module: Any,
        device: str = "cpu",
        pool: Executor | None = None,
        threads: int = 1,
        native: bool = True,
    ) -> None:
        self.event_size = int(module.event_size)
        self.context_size = int(module.context_size)
        # A scorer without it was exported before there were bases that need more.
        self.noise_size = int(getattr(module, "noise_size", self.event_size))
        self.feature_names = [str(name) for name in module.feature_names]
        self.context_names = [str(name) for name in module.context_names]
        self._module = module
        self._device = torch.device(device)
        self._pool = pool
        self._threads = threads
        on_cpu = self._device.type == "cpu"
        self._native = None if not native else native_flow(module) if on_cpu else device_flow(module, self._device)
        self._noise = (native_noise() if native else None) or normal_rows
        self.answered_by = "torchscript" if self._native is None else self._native.instruction_set
        self._warm_up()

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        pool: Executor | None = None,
        threads: int = 1,
        native: bool = True,
    ) -> Scorer:
        """Read a ``scorer.pt``, move it to a device and run it once in each direction.

        Raises:
            RuntimeError: the file is not a scorer, or does not run on this device.

        Example:
            >>> scorer = Scorer.load("model_store/wine/1/scorer.pt")      # doctest: +SKIP
            >>> scorer.log_prob(np.zeros((5, 13)), None).shape            # doctest: +SKIP
            (5,)
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        module.eval()
        try:
            return cls(module, device, pool, threads, native)
        except AttributeError as error:
            raise RuntimeError(f"{path} is TorchScript, but not a scorer: {error}") from None

    def log_prob(self, rows: NDArray[Any], context: NDArray[Any] | None = None) -> NDArray[Any]:
        """Natural log-density of ``rows[N, D]`` in data units, given ``context[N, C]``: ``[N]``.

        Raises:
            ScoringError: a shape or dtype is wrong.
        """
        self.check(rows, context, len(rows))
        if self._native is not None:
            return self._native.log_prob(rows, context, self._threads)
        return self._spread(self._part_log_prob, rows, context)[0]

    def log_prob_at_once(self, rows: NDArray[Any], context: NDArray[Any] | None = None) -> NDArray[Any]:
        """The same bits by the calling thread alone, which keeps the interpreter lock where the code is native.

        For few rows: another thread that takes the lock meanwhile keeps it for longer than they need.

        Raises:
            ScoringError: as ``log_prob``.
        """
        if self._native is None:
            return self.log_prob(rows, context)
        self.check(rows, context, len(rows))
        return self._native.log_prob(rows, context, threads=1, locked=True)

    def sample(self, draws: Sequence[Draw], context: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Samples ``[N, D]`` and their log-densities ``[N]`` for the draws, one after the other; N sums their counts.

        Raises:
            ScoringError: a draw is out of range, or the context of a wrong shape or dtype.
        """
        try:
            for draw in draws:
                check_draw(*draw, self.noise_size)
        except (ValueError, TypeError) as error:
            raise ScoringError("INVALID_DRAW", "draws", str(error)) from None
        count = sum(rows for _, _, rows in draws)
        if not count:
            raise ScoringError("INVALID_DRAW", "draws", "no samples asked for; expected at least one")
        self.check(None, context, count)
        noise = self._noise(draws, self.noise_size, self._threads)
        if self._native is not None:
            return self._native.sample(noise, context, self._threads)
        rows, log_prob = self._spread(self._part_sample, noise, context)
        return rows, log_prob

    def check(self, rows: NDArray[Any] | None, context: NDArray[Any] | None, count: int) -> None:
        """See whether the model can take this.

        Args:
            rows: of a density, or None for samples.
            context: one row for each of ``count``, or None.
            count: number of rows or samples.

        Raises:
            ScoringError: a shape or dtype is wrong, or a context missing or too much.
        """
        if rows is not None:
            _check_matrix("rows", rows, self.event_size)
        if context is None and self.context_size:
            message = f"no context given; this model needs one of shape [{count}, {self.context_size}]"
            raise ScoringError("CONTEXT_MISSING", "context", message)
        if context is not None and not self.context_size:
            raise ScoringError("CONTEXT_UNEXPECTED", "context", "a context was given, and this model takes none")
        if context is not None:
            _check_matrix("context", context, self.context_size)
            if len(context) != count:
                message = f"context has {len(context)} rows; expected {count}, one for each row or sample"
                raise ScoringError("WRONG_SHAPE", "context", message)

    def _spread(
        self, part: Callable[..., tuple[NDArray[Any], ...]], rows: NDArray[Any], context: NDArray[Any] | None
    ) -> tuple[NDArray[Any], ...]:
        """Compute in parts of whole pads, on the pool's threads when it is worth it, and put them together again."""
        count = len(rows)
        if self._device.type != "cpu":
            return part(rows, context)
        threads = 1 if self._pool is None else self._threads
        parts = max(min(count // _MIN_PART_ROWS, threads), math.ceil(count / _MAX_PART_ROWS), 1)
        if parts == 1:
            return part(rows, context)
        step = math.ceil(count / parts / PAD_ROWS) * PAD_ROWS
        slices = [slice(start, start + step) for start in range(0, count, step)]
        pieces = [(rows[s], None if context is None else context[s]) for s in slices]
        if self._pool is None:
            results = [part(*piece) for piece in pieces]
        else:
            results = list(self._pool.map(part, *zip(*pieces, strict=True)))
        return tuple(np.concatenate(arrays) for arrays in zip(*results, strict=True))

    def _part_log_prob(self, rows: NDArray[Any], context: NDArray[Any] | None) -> tuple[NDArray[Any], ...]:
        with torch.inference_mode(), _plain_executor():
            result = self._module.log_prob(self._padded(rows), self._padded(context))
            return (result[: len(rows)].cpu().numpy(),)

    def _part_sample(self, noise: NDArray[Any], context: NDArray[Any] | None) -> tuple[NDArray[Any], ...]:
        with torch.inference_mode(), _plain_executor():
            rows, log_prob = self._module.sample(self._padded(noise), self._padded(context))
            return np.ascontiguousarray(rows[: len(noise)].cpu().numpy()), log_prob[: len(noise)].cpu().numpy()

    def _padded(self, array: NDArray[Any] | None) -> torch.Tensor | None:
        """A copy on the device, its last row repeated up to a whole pad: a row that is known to be valid."""
        if array is None:
            return None
        count = len(array)
        padded = np.empty((math.ceil(count / PAD_ROWS) * PAD_ROWS, array.shape[1]), array.dtype)
        padded[:count] = array
        padded[count:] = array[-1]
        return torch.from_numpy(padded).to(self._device)

    def _warm_up(self) -> None:
        """Pay for the first call now, and learn the results' dtype."""
        context = np.zeros((1, self.context_size), np.float32) if self.context_size else None
        noise, row = np.zeros((1, self.noise_size), np.float32), np.zeros((1, self.event_size), np.float32)
        if self._native is not None:
            self.dtype = self._native.log_prob(row, context).dtype
            return
        _, log_prob = self._part_sample(noise, context)
        self._part_log_prob(row, context)
        self.dtype = log_prob.dtype


def _check_matrix(field: str, array: NDArray[Any], width: int) -> None:
    if array.dtype not in (np.float32, np.float64):
        raise ScoringError("WRONG_DTYPE", field, f"{field} is {array.dtype}; expected float32 or float64")
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        message = f"{field} has the shape {list(array.shape)}; expected [N, {width}], N at least 1"
        raise ScoringError("WRONG_SHAPE", field, message)


def _plain_executor() -> AbstractContextManager[None]:
    """TorchScript without profiling and recompiling on the first calls, and as fast after them."""
    context: AbstractContextManager[None] = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return context
