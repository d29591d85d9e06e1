"""Fit a flow to rows by maximum likelihood.

Weights are averaged over steps (Polyak and Juditsky 1992), and the average is what is validated and kept: with a few
hundred rows single steps are noisy. The learning rate is lowered when validation stops improving.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmodel.bijectors.supports import supports_of
from flowmodel.data import check_enough_rows, check_finite, check_supported, check_varied, split_rows
from flowmodel.distributions import Flow
from flowmodel.errors import DataError, TrainingError
from flowmodel.training.history import Epoch, FitResult
from flowmodel.training.optimiser import Optimiser

Rows = Tensor | np.ndarray[Any, Any]

LOWERINGS = 1
"""How often the learning rate is lowered before training ends."""

_WORTH_WAITING = 1e-3
"""Nats per dimension by which validation must get better for training to go on; any better weights are kept."""

_EVALUATION_ROWS = 8192


def fit(
    flow: Flow,
    data: Rows,
    *,
    context: Rows | None = None,
    validation: float | Rows = 0.1,
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
) -> FitResult:
    """Train a flow in place and leave it with the weights that did best on the held-out rows.

    Args:
        flow: The flow; its ``Standardize`` parts are set from the training rows alone.
        data: ``[N, *event_shape]``, at best float64.
        context: ``[N, *context_shape]`` for a conditional flow.
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

    Returns:
        The history.

    Raises:
        DataError: The rows cannot be trained on; the text names row and column.
        TrainingError: A setting is out of range, or the loss is not finite again and again.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), torch.ones(1)), 1)
        >>> flow = dist.Flow(base, bij.Compose([bij.AffineAutoregressive(), bij.Standardize()]))
        >>> result = fit(flow, torch.arange(100.0).reshape(-1, 1), max_epochs=3)
        >>> result.epochs, result.train_rows, result.validation_rows
        (3, 90, 10)
    """
    _check_settings(max_epochs, patience, batch_size, learning_rate, weight_decay, clip_norm, seed)
    train, held_out = _parts(flow, data, context, validation, validation_context, seed)
    generator = torch.Generator().manual_seed(seed)
    if standardize:
        flow.standardize_(_jittered(flow, train[0], generator), train[1])
    count = len(train[0])
    batch_size = batch_size or min(max(64, count // 12), 512)
    settings: dict[str, Any] = {
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": min(1.0, 300 / count) if weight_decay is None else weight_decay,
        "clip_norm": clip_norm,
        "patience": patience,
        "max_epochs": max_epochs,
    }
    train, held_out = _cast(train, flow.data_dtype), _cast(held_out, flow.data_dtype)
    optimiser = Optimiser(flow, learning_rate, settings["weight_decay"], clip_norm)

    history = [Epoch(0, _nll(flow, train), _nll(flow, held_out), learning_rate)]
    best, best_weights, waited, lowered = history[0], optimiser.average(), 0, 0
    to_beat = best.validation_nll if math.isfinite(best.validation_nll) else math.inf
    try:
        for number in range(1, max_epochs + 1):
            rate = optimiser.learning_rate
            train_nll = _train_epoch(flow, train, batch_size, optimiser, generator)
            with optimiser.averaged_weights():
                epoch = Epoch(number, train_nll, _nll(flow, held_out), rate)
            history.append(epoch)
            if epoch.validation_nll < best.validation_nll or not math.isfinite(best.validation_nll):
                best, best_weights = epoch, optimiser.average()
            if best.validation_nll < to_beat - _WORTH_WAITING * math.prod(flow.event_shape):
                to_beat, waited = best.validation_nll, 0
            else:
                waited += 1
            if progress is not None:
                progress(epoch)
            if waited == patience:
                if lowered == LOWERINGS:
                    break
                lowered, waited = lowered + 1, 0
                optimiser.lower(best_weights)
    finally:
        optimiser.restore(best_weights)
    if not math.isfinite(best.validation_nll):
        raise TrainingError(
            f"the validation negative log-likelihood was {best.validation_nll} after {history[-1].number} epochs; look "
            "for rows far from all others, put bij.Standardize() last in the plan, or lower learning_rate"
        )
    return FitResult(
        history=tuple(history),
        best_epoch=best.number,
        stopped="patience" if waited == patience and lowered == LOWERINGS else "max_epochs",
        skipped_steps=optimiser.skipped,
        train_rows=count,
        validation_rows=len(held_out[0]),
        dimensions=math.prod(flow.event_shape),
        settings=settings,
    )


Part = tuple[Tensor, Tensor | None]


def _train_epoch(flow: Flow, part: Part, batch_size: int, optimiser: Optimiser, generator: torch.Generator) -> float:
    rows, context = part
    total, seen = 0.0, 0
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    for start in range(0, len(rows), batch_size):
        batch = order[start : start + batch_size]
        given = _jittered(flow, rows[batch], generator)
        loss = -flow.log_prob(given, None if context is None else context[batch]).mean()
        if optimiser.step(loss):
            total += loss.item() * len(batch)
            seen += len(batch)
    return total / seen if seen else math.nan


def _jittered(flow: Flow, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows with whole numbers spread over their cells; the rows themselves, and nothing drawn, if there are none."""
    return flow.bijector.jitter(rows.reshape(len(rows), -1), generator).reshape(rows.shape)


@torch.no_grad()
def _nll(flow: Flow, part: Part) -> float:
    rows, context = part
    total = 0.0
    for start in range(0, len(rows), _EVALUATION_ROWS):
        batch = slice(start, start + _EVALUATION_ROWS)
        log_prob = flow.log_prob(rows[batch], None if context is None else context[batch])
        total -= log_prob.to(torch.float64).sum().item()
    return total / len(rows)


def _parts(
    flow: Flow,
    data: Rows,
    context: Rows | None,
    validation: float | Rows,
    validation_context: Rows | None,
    seed: int,
) -> tuple[Part, Part]:
    """Training and held-out rows, checked, in float64 on the flow's device."""
    device = next((p.device for p in flow.parameters()), torch.device("cpu"))
    rows = _checked("data", data, flow.event_shape)
    contexts = _checked_context("context", context, flow, len(rows))
    if isinstance(validation, float | int):
        if not 0 < validation < 1:
            raise DataError(f"validation={validation}; expected a fraction between 0 and 1, or the held-out rows")
        split = split_rows(len(rows), validation=validation, test=0.0, seed=seed)
        held_out, held_out_contexts = rows[split.validation], None if contexts is None else contexts[split.validation]
        rows, contexts = rows[split.train], None if contexts is None else contexts[split.train]
    else:
        held_out = _checked("validation", validation, flow.event_shape)
        held_out_contexts = _checked_context("validation_context", validation_context, flow, len(held_out))
    preprocessing = supports_of(flow.bijector)
    if preprocessing is not None:
        for name, part in (("the training rows", rows), ("the validation rows", held_out)):
            flat = part.reshape(len(part), -1)
            check_supported(flat, [str(column) for column in range(flat.shape[1])], preprocessing.supports, name)
    # Once more after the split: a column may vary over all rows and not over those trained on.
    for name, part in (("the training rows", rows), ("the training contexts", contexts)):
        if part is not None:
            flat = part.reshape(len(part), -1)
            check_varied(flat, [str(column) for column in range(flat.shape[1])], name)

    def on_device(part: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(part)).to(device)

    return (
        (on_device(rows), None if contexts is None else on_device(contexts)),
        (on_device(held_out), None if held_out_contexts is None else on_device(held_out_contexts)),
    )


def _checked(name: str, given: Rows, shape: torch.Size) -> np.ndarray[Any, Any]:
    values = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{name}: an array of dtype {values.dtype}; expected real numbers")
    if values.ndim != len(shape) + 1 or values.shape[1:] != tuple(shape):
        expected = ", ".join(["N", *map(str, shape)])
        raise DataError(
            f"{name}: an array of shape {values.shape}; expected [{expected}], as the flow's event shape says"
        )
    values = values.astype(np.float64)
    flat = values.reshape(len(values), math.prod(shape))
    columns = [str(column) for column in range(flat.shape[1])]
    if not name.startswith("validation"):
        check_enough_rows(len(flat), flat.shape[1], name)
        check_finite(flat, columns, name)
        check_varied(flat, columns, name)
    elif not len(flat):
        raise DataError(f"{name}: there are no rows; give some, or a fraction of the data to hold out")
    check_finite(flat, columns, name)
    return values


def _checked_context(name: str, given: Rows | None, flow: Flow, count: int) -> np.ndarray[Any, Any] | None:
    if flow.context_shape is None:
        if given is not None:
            raise DataError(
                f"{name}: was given, but the flow takes none; make it with context_shape=..., or leave it out"
            )
        return None
    if given is None:
        raise DataError(f"{name}: is missing; the flow needs one of shape {tuple(flow.context_shape)} for each row")
    values = _checked(name, given, flow.context_shape)
    if len(values) != count:
        raise DataError(f"{name}: {len(values)} contexts for {count} rows; expected one for each row")
    return values


def _cast(part: Part, dtype: torch.dtype) -> Part:
    return part[0].to(dtype), part[1]


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
        "seed": (seed, 0 <= seed < 2**64, "0 to 2**64 - 1"),
        "max_epochs": (max_epochs, max_epochs >= 1, "at least 1"),
        "patience": (patience, patience >= 1, "at least 1"),
        "batch_size": (batch_size, batch_size is None or batch_size >= 1, "at least 1, or None"),
        "learning_rate": (learning_rate, 0 < learning_rate < math.inf, "a number above 0"),
        "weight_decay": (weight_decay, weight_decay is None or 0 <= weight_decay < math.inf, "0 or more, or None"),
        "clip_norm": (clip_norm, clip_norm > 0, "a number above 0"),
    }
    for name, (given, is_sound, expected) in sound.items():
        if not is_sound:
            raise TrainingError(f"{name}={given}; expected {expected}")
