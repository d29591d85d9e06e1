"""Whether a kernel answers as TorchScript does, as far as rounding lets the two agree.

They add in another order, and a flow amplifies what each addition rounds off as much as a rounding of what it is given.
So TorchScript is asked again with everything moved by one rounding, and how far that moves its answers is the measure.
Where it moves them over an edge (of a support, or from one whole number to the next) there is nothing to compare, and
where it moves them far nothing is worth comparing; of the rows, enough have to be left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .noise import standard_normal

_ROWS = 64

_ROUNDINGS = 64
"""How far apart two answers may be, in roundings of their size, however little the flow amplifies."""

_AMPLIFIED = 256
"""How far apart they may be, in what one rounding of everything given changes: each sum along the way rounds too."""

_WORTH_COMPARING = 0.01
"""The most that a comparison may have to allow, in parts of the answer's size."""

_LEAST_COMPARED = 0.5
"""The share of the samples whose log-densities can be compared that says something of the rest."""

Array = NDArray[np.float64]


def disagreement(
    module: Any, native: Any, device: torch.device, twin: Callable[[Any], Any] | None = None
) -> str | None:
    """In what the kernel's answers differ from TorchScript's, in words; ``None`` if rounding explains it all.

    Args:
        module: the TorchScript scorer, on ``device``.
        native: the kernel of the same flow.
        device: where TorchScript computes.
        twin: makes a kernel of a scorer in float64, which is looked at where float32 has too few digits to compare.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _disagreement(module, native, device, twin)


def _disagreement(module: Any, native: Any, device: torch.device, twin: Callable[[Any], Any] | None) -> str | None:
    wrong, compared = _compare(module, native, device)
    if wrong is None and compared < _LEAST_COMPARED and twin is not None and module.like.dtype == torch.float32:
        exact = copy.deepcopy(module).double()
        wrong, compared = _compare(exact, twin(exact), device)
    if wrong is None and compared < _LEAST_COMPARED:
        return f"a rounding moves the log-densities of {1 - compared:.0%} of the samples too far to compare them"
    return wrong


def _compare(module: Any, native: Any, device: torch.device) -> tuple[str | None, float]:
    """What is wrong, or ``None``, and the share of the samples whose log-densities could be compared."""
    noise, context = _given(module)
    conditions = None if context is None else torch.from_numpy(context).to(device)
    rounding = float(torch.finfo(module.like.dtype).eps)

    def drawn(noise: Array) -> tuple[Array, Array]:
        with torch.inference_mode():
            rows, log_prob = module.sample(torch.from_numpy(noise).to(device), conditions)
        return rows.double().cpu().numpy(), log_prob.double().cpu().numpy()

    def scored(rows: Array) -> Array:
        with torch.inference_mode():
            log_prob: Array = module.log_prob(torch.from_numpy(rows).to(device), conditions).double().cpu().numpy()
        return log_prob

    rows, log_prob = zip(*(drawn(noise + nudge) for nudge in (0.0, -rounding, rounding)), strict=True)
    native_rows, native_log_prob = (answer.astype(np.float64) for answer in native.sample(noise, context))
    whole, spread = module.integers.cpu().numpy(), _spread(rows[0])
    allowed = rounding * (_ROUNDINGS * spread + 2 * np.abs(rows[0])) + _AMPLIFIED * _moved(rows)
    # Of two whole numbers side by side each code may take another.
    agree = np.abs(native_rows - rows[0]) <= np.where(whole, np.maximum(allowed, 1.0), allowed)
    wrong = np.argwhere(~agree & (allowed <= np.maximum(spread, np.abs(rows[0]))))
    if len(wrong):
        row, column = wrong[0]
        return f"sample {row} holds {native_rows[row, column]} in column {column}, not {rows[0][row, column]}", 0.0
    same = (native_rows == rows[0])[:, whole].all(1)
    log_probs = [("draws", tuple(of[same] for of in log_prob), native_log_prob[same])]
    for what, values in (("samples", rows[0]), ("outliers", _outliers(rows[0]))):
        # A flow that reads its data in float32 sees no smaller step.
        step = rounding * (_spread(values) if module.takes_float64 else np.maximum(_spread(values), np.abs(values)))
        answers = tuple(scored(values + nudge * step) for nudge in (0, -1, 1))
        log_probs.append((what, answers, native.log_prob(values, context).astype(np.float64)))
    found = [_compare_log_prob(*of_rows, rounding) for of_rows in log_probs]
    return next((text for text, _ in found if text), None), found[1][1]


def _given(module: Any) -> tuple[Array, Array | None]:
    """Noise, and contexts as the training data had them."""
    # A scorer without it was exported before there were bases that need more.
    noise = standard_normal(0, 0, _ROWS, int(getattr(module, "noise_size", module.event_size)))
    size = int(module.context_size)
    if not size:
        return noise, None
    location, scale = module.context_location.cpu().numpy(), module.context_scale.cpu().numpy()
    return noise, location + scale * standard_normal(1, 0, _ROWS, size)


def _spread(rows: Array) -> Array:
    """How far each value is from the middle of its column, and at least what is usual there."""
    away = np.abs(rows - np.median(rows, 0))
    spread: Array = np.maximum(away, np.median(away, 0))
    return spread


def _outliers(rows: Array) -> Array:
    """Each row with one value far out: below the rest of its column in every other row, above it in the others."""
    low, high = rows.min(0), rows.max(0)
    far = rows.copy()
    for row in range(len(rows)):
        column = row // 2 % rows.shape[1]
        width = high[column] - low[column]
        far[row, column] = low[column] - 2 * width if row % 2 else high[column] + 2 * width
    return far


def _moved(answers: tuple[Array, ...]) -> Array:
    """How far a rounding moves each answer, 0 between answers that are the same and not finite."""
    exact, *others = answers
    apart = [np.where((other == exact) | np.isnan(other) & np.isnan(exact), 0, other - exact) for other in others]
    moved: Array = np.abs(apart).max(0)
    return np.where(np.isnan(moved), np.inf, moved)


def _compare_log_prob(
    what: str, answers: tuple[Array, ...], native: Array, rounding: float
) -> tuple[str | None, float]:
    """Log-densities by TorchScript, three of each row, and by the kernel: what is wrong, and the share compared."""
    expected = answers[0]
    finite = np.isfinite(expected)
    usual = float(np.median(np.abs(expected[finite]))) if finite.any() else 1.0
    size = np.where(finite, np.maximum(np.abs(expected), max(usual, 1.0)), 0.0)
    allowed = rounding * _ROUNDINGS * size + _AMPLIFIED * _moved(answers)
    compared = allowed <= _WORTH_COMPARING * size
    agree = (native == expected) | np.isnan(native) & np.isnan(expected) | (np.abs(native - expected) <= allowed)
    wrong = np.flatnonzero(compared & ~agree)
    share = float(compared.mean()) if len(compared) else 0.0
    if not len(wrong):
        return None, share
    text = f"the log-densities of {len(wrong)} of {len(expected)} {what} are further apart than rounding explains: "
    return f"{text}{native[wrong[0]]}, not {expected[wrong[0]]}", share
