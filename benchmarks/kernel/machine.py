"""The machine: what it is, how many threads a process may use, who else uses it, how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch

MATRIX_SIZES = (512, 1024, 1536)
"""Square float32 products tried for the peak; the best of them is the measure."""


def description() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"


def thread_environment(threads: int) -> dict[str, str]:
    """What must stand in the environment before torch and JAX are imported, for both to use so many threads."""
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return environment


def limit_threads(threads: int) -> None:
    """Let this process use so many threads.

    JAX makes as many as there are cores that it may run on, so with more than one thread the process is bound to as
    many cores. With one, XLA's own flags see to it, and the process may move to whichever core is free.
    """
    if threads > 1 and len(os.sched_getaffinity(0)) > threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)


class Usage(NamedTuple):
    """Seconds of all cores, since the machine started, busy and altogether; and those of this process."""

    busy: float
    total: float
    own: float


def usage() -> Usage | None:
    """``None`` where there is no ``/proc/stat``."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    times = os.times()
    idle = ticks[3] + ticks[4]
    return Usage(sum(ticks) - idle, sum(ticks), times.user + times.system)


def share_of_others(before: Usage | None, after: Usage | None) -> float | None:
    """The share of the machine's cores that other processes used in between, 0 to 1.

    Example:
        >>> share_of_others(Usage(10, 100, 4), Usage(16, 110, 9))
        0.1
    """
    if before is None or after is None or after.total <= before.total:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return round(max(0.0, others / (after.total - before.total)), 3)


def matrix_product(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two float32 matrices and room for their product, which takes 2 size^3 operations."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    return left, right, torch.empty(size, size)
