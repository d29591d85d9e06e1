"""Fit a flow to rows by maximum likelihood.

Weights are averaged over steps (Polyak and Juditsky 1992), and the average is what is validated and kept: with a few
hundred rows single steps are noisy. The learning rate is lowered when validation stops improving. Where the plan has a
layer with ``skip_connections="fitted"``, the Normal of greatest likelihood is kept if no epoch did better.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flowmodel.data.parquet_rows import ParquetRows
from flowmodel.distributions import Flow
from flowmodel.errors import DataError, TrainingError
from flowmodel.training.checkpoint import Checkpoint
from flowmodel.training.history import Epoch, FitResult
from flowmodel.training.in_memory import InMemory, Rows
from flowmodel.training.optimiser import Optimiser
from flowmodel.training.processes import Processes
from flowmodel.training.source import Source
from flowmodel.training.streamed import Streamed
from flowmodel.training.trainer import Trainer


def fit(
    flow: Flow,
    data: Rows | ParquetRows,
    *,
    context: Rows | None = None,
    validation: float | Rows | ParquetRows = 0.1,
    validation_context: Rows | None = None,
    seed: int = 0,
    max_epochs: int = 300,
    patience: int = 20,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    weight_decay: float | None = None,
    clip_norm: float = 5.0,
    standardize: bool = True,
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train a flow in place and leave it with the weights that did best on the held-out rows.

    Under an initialised ``torch.distributed`` group, such as ``torchrun`` makes for a program that calls
    ``init_process_group``, all processes must call it with the same arguments: each takes its share of every batch, and
    all end with the weights that one alone would have, to rounding.

    Args:
        flow: The flow; its ``Standardize`` parts are set from the training rows alone.
        data: ``[N, *event_shape]``, at best float64; or rows of a Parquet file, read in chunks.
        context: ``[N, *context_shape]`` for a conditional flow; rows of a Parquet file bring their own.
        validation: Fraction of the rows to hold out, or the held-out rows themselves.
        validation_context: Contexts of the held-out rows, where these are given.
        seed: Decides the split and the order of the rows; the same seed on the same machine repeats a run exactly.
            The initial weights were drawn when the flow was made. Torch's global generator is not touched.
        max_epochs: Most passes over the training rows.
        patience: Epochs without a notably better validation until the learning rate is lowered, and then until the end.
        batch_size: Rows per step; by default 1/12 of the training rows, from 64 to 512.
        learning_rate: Of AdamW, at first.
        weight_decay: Of AdamW; by default 300 over the number of training rows, at most 1, since few rows need a pull
            towards the simple flow that many overrule.
        clip_norm: Largest norm of the gradient.
        standardize: Whether to set the ``Standardize`` parts; ``False`` goes on with a flow trained before.
        progress: Called after each epoch; may raise to end training early, the best weights are then in place.
        checkpoint: File to which the training is saved after an epoch, without taking more than a twentieth of the
            time; it is replaced in one rename, and stays when training has ended.
        resume: Go on from ``checkpoint``, if there is such a file: with the same data, settings and plan the weights at
            the end are, to the bit, those of a training that was never interrupted. Only ``max_epochs`` may differ.

    Returns:
        The history.

    Raises:
        DataError: The rows cannot be trained on; the text names row and column.
        TrainingError: A setting is out of range, the loss is not finite again and again, or the checkpoint is damaged
            or of another training; the text says what differs.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), torch.ones(1)), 1)
        >>> flow = dist.Flow(base, bij.Compose([bij.AffineAutoregressive(), bij.Standardize()]))
        >>> result = fit(flow, torch.arange(100.0).reshape(-1, 1), max_epochs=3)
        >>> result.epochs, result.train_rows, result.validation_rows
        (3, 90, 10)
    """
    _check_settings(max_epochs, patience, batch_size, learning_rate, weight_decay, clip_norm, seed)
    if resume and checkpoint is None:
        raise TrainingError("resume=True without a checkpoint; expected checkpoint=path of the file to go on from")
    source = _source(flow, data, context, validation, validation_context, seed)
    count = source.train_rows
    settings: dict[str, Any] = {
        "seed": seed,
        "batch_size": batch_size or min(max(64, count // 12), 512),
        "learning_rate": learning_rate,
        "weight_decay": min(1.0, 300 / count) if weight_decay is None else weight_decay,
        "clip_norm": clip_norm,
        "patience": patience,
        "max_epochs": max_epochs,
    }
    processes = Processes(source.device)
    saving, saved = None, None
    if checkpoint is not None or processes.count > 1:
        identity = _identity(flow, source, processes, settings)
        processes.check_same("data, settings or plan", repr(sorted(identity.items())))
        if checkpoint is not None:
            saving = Checkpoint(checkpoint, identity)
            content = processes.first_bytes(saving.content() if resume and processes.rank == 0 else None)
            saved = None if content is None else saving.saved(content)
    generator = torch.Generator().manual_seed(seed)
    if standardize and saved is None:
        source.standardize_(generator)
    processes.copy_first_([*flow.parameters(), *flow.buffers()])
    optimiser = Optimiser(flow, learning_rate, settings["weight_decay"], clip_norm, processes)
    trainer = Trainer(
        flow, source, optimiser, processes, generator, batch_size=settings["batch_size"], patience=patience, seed=seed
    )
    if saved is not None:
        trainer.load_state(saved)
        if trainer.history[-1].number > max_epochs:
            raise TrainingError(
                f"max_epochs={max_epochs}, and the checkpoint {checkpoint} is of epoch {trainer.history[-1].number}; "
                "give at least that"
            )
    trainer.run(max_epochs, saving, progress)
    best = trainer.best or trainer.history[0]
    if not math.isfinite(best.validation_nll):
        raise TrainingError(
            f"the validation negative log-likelihood was {best.validation_nll} after {trainer.history[-1].number} "
            "epochs; look for rows far from all others, put bij.Standardize() last in the plan, or lower learning_rate"
        )
    return FitResult(
        history=tuple(trainer.history),
        best_epoch=best.number,
        stopped="patience" if trainer.out_of_patience else "max_epochs",
        skipped_steps=optimiser.skipped,
        train_rows=count,
        validation_rows=source.validation_rows,
        dimensions=math.prod(flow.event_shape),
        settings=settings,
    )


def _source(
    flow: Flow,
    data: Rows | ParquetRows,
    context: Rows | None,
    validation: float | Rows | ParquetRows,
    validation_context: Rows | None,
    seed: int,
) -> Source:
    if not isinstance(data, ParquetRows):
        if isinstance(validation, ParquetRows):
            raise DataError("validation: rows of a Parquet file, and data in memory; give both in the same way")
        return InMemory(flow, data, context, validation, validation_context, seed)
    if context is not None or validation_context is not None:
        raise DataError("context: was given beside rows of a Parquet file; name its columns: context_columns=...")
    if not isinstance(validation, float | int | ParquetRows):
        raise DataError("validation: an array, and data from a Parquet file; give a fraction, or a part of the file")
    return Streamed(flow, data, validation, seed)


def _identity(flow: Flow, source: Source, processes: Processes, settings: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for two trainings to be the same, but for how long they go on."""
    return {
        **{name: value for name, value in settings.items() if name != "max_epochs"},
        **source.settings,
        "data": source.fingerprint(),
        "plan": flow.plan.to_json(),
        "base distribution": repr(flow.base_dist),
        "context_shape": None if flow.context_shape is None else list(flow.context_shape),
        "dtype": str(flow.dtype),
        "device": source.device.type,
        "processes": processes.count,
    }


def _check_settings(
    max_epochs: int,
    patience: int,
    batch_size: int | None,
    learning_rate: float,
    weight_decay: float | None,
    clip_norm: float,
    seed: int,
) -> None:
    sound = {
        "seed": (seed, _whole(seed) and 0 <= seed < 2**64, "a whole number from 0 to 2**64 - 1"),
        "max_epochs": (max_epochs, _whole(max_epochs) and max_epochs >= 1, "at least 1, a whole number"),
        "patience": (patience, _whole(patience) and patience >= 1, "at least 1, a whole number"),
        "batch_size": (
            batch_size,
            batch_size is None or (_whole(batch_size) and batch_size >= 1),
            "at least 1, a whole number, or None",
        ),
        "learning_rate": (
            learning_rate,
            isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf,
            "a number above 0",
        ),
        "weight_decay": (
            weight_decay,
            weight_decay is None or (isinstance(weight_decay, int | float) and 0 <= weight_decay < math.inf),
            "a number, 0 or more, or None",
        ),
        "clip_norm": (clip_norm, isinstance(clip_norm, int | float) and clip_norm > 0, "a number above 0"),
    }
    for name, (given, is_sound, expected) in sound.items():
        if not is_sound:
            raise TrainingError(f"{name}={given!r}; expected {expected}")


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
