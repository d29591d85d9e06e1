"""Which device a training uses, and which processes torchrun started for it."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import torch
import torch.distributed as group

from flowmodel.errors import FlowModelError


@contextmanager
def training_processes(device: str) -> Iterator[tuple[torch.device, int]]:
    """The device and the rank of this process; inside, those that torchrun started are a group.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UsageError: A GPU is asked for, and there is none for this process.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = int(os.environ.get("LOCAL_RANK", "0"))
    uses_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if uses_gpu and torch.cuda.device_count() <= place:
        raise click.UsageError(
            f"process {rank} finds {torch.cuda.device_count()} GPUs and needs one of its own; choose --device cpu, or "
            "as many processes as there are GPUs"
        )
    chosen = torch.device("cuda", place) if uses_gpu else torch.device("cpu")
    if count == 1:
        yield chosen, 0
        return
    if uses_gpu:
        torch.cuda.set_device(chosen)
    group.init_process_group("nccl" if uses_gpu else "gloo")
    try:
        yield chosen, rank
        if rank:
            # Process 0 goes on to publish; the others are done.
            atexit.register(_end_at_once)
    except FlowModelError as error:
        if rank:
            # Process 0 says it too if it is everybody's mistake.
            raise type(error)(f"process {rank}: {error}") from error
        raise
    finally:
        group.destroy_process_group()


def _end_at_once() -> None:
    """End this process, and well, without taking the interpreter apart.

    A thread of gloo's may let go of its last tensor only then, and wanting the interpreter for it aborts the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
