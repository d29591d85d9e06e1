"""Peak memory of a training step: how far the resident memory of a process of its own rises during one.

Resident memory and not torch's own count, since a library may also take memory elsewhere. The process first makes a
step of a few rows, so that code, weights and gradients are there. Then what is free is given back to the system, lest
the step be lent it unseen, and the kernel told to forget its peak.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from kernel import training


def peak_of_step(name: str, dims: int, hidden: int, batch: int) -> float | None:
    """MB that one step rises above what the process held before; ``None`` where Linux does not tell."""
    built = training.build(name, dims, hidden)
    rows = torch.randn(batch, dims)
    training.step(built, rows[:8].clone())()
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return None
    training.step(built, rows)()
    return round((_status("VmHWM") - before) / 1e6, 1)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
