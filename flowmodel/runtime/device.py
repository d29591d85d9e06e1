"""A flow on a GPU, numpy in and numpy out: pinned staging, and for few rows one CUDA graph instead of many launches.

A call's rows go into a stage: buffers for up to so many rows, made once. A captured stage is always computed whole;
what a call leaves of it is filled with the last row, one that is known to be valid. Its graph holds the way there, the
flow and the way back, so that a call is one launch. Where the flow cannot be captured, or rows are so many that
launches no longer count, it is run as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LOG = logging.getLogger(__name__)

FUSED_STAGES = (32, 256, 1024)
"""Rows of the stages that are captured of a kernel that costs the same for few rows and fewer."""

LAUNCHED_STAGES = (32, 128, 512, 1024, 2048, 4096)
"""The same of a flow of many launches, each of which also costs by the row."""

_LARGEST_STAGE = 65536
_LARGEST_BYTES = 2**25
"""Pinned memory that a stage may take for its rows."""

_WARM_UPS = 2


class Flow(Protocol):
    """What is computed: a TorchScript scorer, or a kernel that answers like one."""

    def log_prob(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of ``rows[N, D]``: ``[N]``."""

    def sample(self, noise: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``noise[N, noise_size]`` to samples ``[N, D]`` and their log-densities ``[N]``."""


class DeviceFlow:
    """A flow on one device. Its methods may be called from several threads at once, and take turns.

    Args:
        flow: what is computed, its buffers on the device.
        module: the scorer, which says what it takes.
        device: a GPU; a CPU has neither pinned memory nor graphs, and goes through the same stages without them.
        name: of what computes, for the record.
        stages: rows of the stages that are captured.
        splits: whether more rows than the last stage holds are taken in parts of its size; otherwise there is a larger
            one, which is not captured.
    """

    def __init__(
        self, flow: Flow, module: Any, device: torch.device, name: str, stages: tuple[int, ...], *, splits: bool
    ) -> None:
        self.instruction_set = name
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        self._stages = stages
        size, noise_size = int(module.event_size), int(getattr(module, "noise_size", module.event_size))
        self._context_size = int(module.context_size)
        self._captures = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None
        if not splits:
            fitting = _LARGEST_BYTES // (8 * max(size, noise_size))
            stages = (*stages, max(stages[-1], min(_LARGEST_STAGE, 1 << max(fitting, 1).bit_length() - 1)))
        # An older scorer, which does not say, may have use for float64.
        dtypes = [torch.float32, torch.float64] if getattr(module, "takes_float64", True) else [torch.float32]

        def log_prob(rows: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
            return (flow.log_prob(rows, context),)

        if self._stream is not None:
            # The flow's buffers were filled on another stream.
            torch.cuda.synchronize(device)
        with self._computing():
            self._log_prob = {dtype: [self._stage(log_prob, n, size, dtype) for n in stages] for dtype in dtypes}
            self._sample = [self._stage(flow.sample, n, noise_size, torch.float64) for n in stages]

    def log_prob(
        self, rows: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1, *, locked: bool = False
    ) -> NDArray[Any]:
        """Log-density of ``rows[N, D]``, float32 or float64, given ``context[N, C]``: ``[N]``; threads are not used."""
        dtype = torch.float64 if rows.dtype == np.float64 else torch.float32
        return self._run(self._log_prob.get(dtype, self._log_prob[torch.float32]), rows, context)[0]

    def sample(
        self, noise: NDArray[Any], context: NDArray[Any] | None = None, threads: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Standard normal ``noise[N, noise_size]`` to samples ``[N, D]`` and their log-densities ``[N]``."""
        rows, log_prob = self._run(self._sample, noise, context)
        return rows, log_prob

    def _run(self, stages: list[Stage], rows: NDArray[Any], context: NDArray[Any] | None) -> tuple[NDArray[Any], ...]:
        stage = next((stage for stage in stages if len(rows) <= stage.rows), stages[-1])
        parts = []
        for start in range(0, len(rows), stage.rows):
            part = slice(start, start + stage.rows)
            with self._lock, self._computing():
                parts.append(stage.run(rows[part], None if context is None else context[part], self._stream))
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def _stage(
        self, compute: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]], rows: int, width: int, dtype: torch.dtype
    ) -> Stage:
        stage = Stage(compute, rows, width, self._context_size, dtype, self._device)
        context = np.zeros((rows, self._context_size)) if self._context_size else None
        for _ in range(_WARM_UPS):
            stage.run(np.zeros((rows, width)), context, self._stream)
        if self._captures and rows in self._stages:
            try:
                stage.capture(self._stream, self._pool)
            except RuntimeError as error:
                _LOG.warning("No CUDA graphs, the flow is launched part by part: %s", str(error).strip().split("\n")[0])
                self._captures = False
        return stage

    @contextmanager
    def _computing(self) -> Iterator[None]:
        chosen = torch.cuda.device(self._device if self._stream is not None else -1)
        # TorchScript without profiling and recompiling on the first calls.
        plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with chosen, torch.cuda.stream(self._stream), torch.inference_mode(), plain:
            yield


class Stage:
    """Buffers for up to so many rows, on both sides, and the graph of what happens between them.

    Args:
        compute: rows and context to results, on the device.
        rows: how many rows the buffers hold.
        width: of a row.
        context_size: width of a context row, 0 for none.
        dtype: of the rows; the context is float64.
        device: where it is computed.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
        rows: int,
        width: int,
        context_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows = rows
        self._compute = compute
        self._pinned = device.type == "cuda"
        given = [(width, dtype)] + [(context_size, torch.float64)] * bool(context_size)
        self._host = [torch.zeros(rows, size, dtype=kind, pin_memory=self._pinned) for size, kind in given]
        self._inputs = [torch.zeros(rows, size, dtype=kind, device=device) for size, kind in given]
        self._results: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(
        self, rows: NDArray[Any], context: NDArray[Any] | None, stream: torch.cuda.Stream | None
    ) -> tuple[NDArray[Any], ...]:
        """The results for up to :attr:`rows` rows, in arrays of their own."""
        count = len(rows)
        given = [rows] if context is None else [rows, context]
        # What is too large for float32 becomes infinite without a warning, as it does in torch.
        with np.errstate(over="ignore"):
            for host, array in zip(self._host, given, strict=True):
                host.numpy()[:count] = array
                if self._graph is not None:
                    host.numpy()[count:] = array[-1]
        if self._graph is not None:
            self._graph.replay()
        else:
            self._way(count)
        if stream is not None:
            stream.synchronize()
        return tuple(result[:count].numpy().copy() for result in self._results)

    def capture(self, stream: torch.cuda.Stream | None, pool: Any) -> None:
        """Record the way there and back for a whole stage; it has been run before.

        Raises:
            RuntimeError: something on the way cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device in the meantime.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._way(self.rows)
        self._graph = graph

    def _way(self, count: int) -> None:
        for there, host in zip(self._inputs, self._host, strict=True):
            there[:count].copy_(host[:count], non_blocking=True)
        inputs = [there[:count] for there in self._inputs]
        results = self._compute(inputs[0], inputs[1] if len(inputs) > 1 else None)
        if not self._results:
            shapes = [(self.rows, *result.shape[1:]) for result in results]
            self._results = [
                torch.empty(shape, dtype=result.dtype, pin_memory=self._pinned)
                for shape, result in zip(shapes, results, strict=True)
            ]
        for host, result in zip(self._results, results, strict=True):
            host[:count].copy_(result, non_blocking=True)
