"""A flow on a GPU, in one launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowmodel.kernel.cuda import packing, walk
from flowmodel.kernel.cuda.layers import FlowLayers

# With 128 registers to a thread, two programs fit on a processor.
LAUNCH_OPTIONS: dict[int, dict[str, int]] = {16: {"num_warps": 4}, 64: {"num_warps": 8, "maxnreg": 128}}
"""Of the kernel, for each number of rows that a program may take."""


class FusedFlow:
    """The flow of a ``scorer.pt`` as one Triton kernel. Its methods may be called from several threads at once.

    Args:
        scorer: the TorchScript module, or the eager one that it was made from, on any device.
        device: the GPU to compute on; the CPU only under Triton's interpreter (``TRITON_INTERPRET=1``).

    Raises:
        NotCoveredError: a part of the flow is not covered.
    """

    def __init__(self, scorer: Any, device: torch.device | str) -> None:
        layers = FlowLayers(scorer)
        self.device = torch.device(device)
        self.event_size, self.context_size = layers.event_size, layers.context_size
        self._takes_float64 = layers.takes_float64
        self._pull = _Direction(packing.pack(layers, layers.pull(), pull=True), self.device)
        self._push = _Direction(packing.pack(layers, layers.push(), pull=False), self.device)
        on_gpu = self.device.type == "cuda"
        processors = torch.cuda.get_device_properties(self.device).multi_processor_count if on_gpu else 1
        # Two to a processor: one multiplies while the other waits for a degree.
        self._programs = 2 * processors
        # Where nothing is asked of the context a pointer is still passed.
        self._nothing = torch.zeros(1, dtype=torch.float64, device=self.device)

    def log_prob(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of ``rows[N, D]``, float32 or float64, given ``context[N, C]``: ``[N]``. All on the device."""
        rows = rows if self._takes_float64 else rows.to(torch.float32)
        log_prob = torch.empty(len(rows), dtype=torch.float32, device=self.device)
        self._launch(self._pull, rows, context, log_prob, log_prob, pull=True)
        return log_prob

    def sample(self, noise: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standard normal ``noise[N, D]`` to samples ``[N, D]`` and their log-densities ``[N]``. All on the device."""
        noise = noise.to(torch.float32)
        values = torch.empty(noise.shape, dtype=torch.float32, device=self.device)
        log_prob = torch.empty(len(noise), dtype=torch.float32, device=self.device)
        self._launch(self._push, noise, context, values, log_prob, pull=False)
        return values, log_prob

    def rows_per_program(self, count: int) -> int:
        """Few rows are spread over as many programs as the device runs at once, many make the most of each weight."""
        return 16 if count <= 16 * self._programs else 64

    def _launch(
        self,
        direction: _Direction,
        rows: Tensor,
        context: Tensor | None,
        values: Tensor,
        log_prob: Tensor,
        *,
        pull: bool,
    ) -> None:
        packed = direction.packed
        tile = self.rows_per_program(len(rows))
        programs = min(-(-len(rows) // tile), self._programs)
        scratch = torch.empty(programs * tile * packed.scratch_rows, dtype=torch.float32, device=self.device)
        if not programs:
            return
        # Triton launches on the current device; of a CPU the number is -1, which changes nothing.
        with torch.cuda.device(scratch.get_device()):
            walk.walk_flow[(programs,)](
                # Always float64: a kernel for either would take twice as long to compile.
                rows.to(torch.float64).contiguous(),
                self._nothing if context is None else context.to(torch.float64).contiguous(),
                values,
                log_prob,
                direction.table,
                direction.numbers,
                direction.weights,
                scratch,
                len(rows),
                self.event_size,
                self.context_size,
                packed.steps,
                *packed.last,
                packed.context,
                packed.scratch_rows,
                PULL=pull,
                ROWS=tile,
                UNITS=packed.units,
                GROUP=packed.group,
                **LAUNCH_OPTIONS[tile],
            )


class _Direction:
    """One direction's arrays, on the device."""

    def __init__(self, packed: packing.Packed, device: torch.device) -> None:
        self.packed = packed
        self.table = torch.from_numpy(packed.table).to(device)
        self.numbers = torch.from_numpy(packed.numbers).to(device)
        self.weights = torch.from_numpy(packed.weights).to(device)
