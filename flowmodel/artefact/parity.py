"""The export check: the scorer must answer as the flow does, or it is not published."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flowmodel.distributions import Flow
from flowmodel.errors import ExportError
from flowmodel.runtime.noise import Draw, standard_normal
from flowmodel.runtime.scoring import Scorer

_ROUNDINGS = 256
"""How many roundings an answer may be off by. Eager and exported flow do the same sums in another order, on another
device perhaps; a few roundings are seen, and what is wrong is off by thousands."""


def check_parity(
    flow: Flow, scorer: Scorer, rows: npt.NDArray[np.float64], context: npt.NDArray[np.float64] | None
) -> dict[str, Any]:
    """Compare log-densities of ``rows[N, D]``, and samples with their log-densities, between scorer and flow.

    Returns:
        ``tolerance`` in nats, ``max_abs_difference`` seen on the log-densities, and ``rows_checked``.

    Raises:
        ExportError: an answer is further off than rounding explains.
    """
    expected = _log_prob(flow, rows, context)
    answered = scorer.log_prob(rows, context).astype(np.float64)
    tolerance = _tolerance(scorer, expected)
    difference = _compare("log_prob", expected, answered, tolerance)
    drawn = min(len(rows), 256)
    given = None if context is None else context[:drawn]
    samples, log_prob = scorer.sample([Draw(seed=0, start=0, count=drawn)], given)
    expected_samples, expected = _sample(flow, drawn, given)
    _compare_samples(expected_samples, samples.astype(np.float64), float(np.finfo(scorer.dtype).eps))
    _compare("log_prob of samples", expected, log_prob.astype(np.float64), _tolerance(scorer, expected))
    return {"tolerance": tolerance, "max_abs_difference": difference, "rows_checked": len(rows)}


def _tolerance(scorer: Scorer, log_prob: npt.NDArray[np.float64]) -> float:
    finite = np.abs(log_prob[np.isfinite(log_prob)])
    size = max(1.0, float(np.median(finite)) if len(finite) else 1.0)
    return float(np.finfo(scorer.dtype).eps) * _ROUNDINGS * size


@torch.no_grad()
def _log_prob(
    flow: Flow, rows: npt.NDArray[np.float64], context: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    device = flow.context_location.device
    value = torch.as_tensor(rows, dtype=flow.data_dtype, device=device).reshape(-1, *flow.event_shape)
    given = None
    if context is not None:
        given = torch.as_tensor(context, device=device).reshape(-1, *(flow.context_shape or ()))
    return flow.log_prob(value, given).cpu().numpy().astype(np.float64)


@torch.no_grad()
def _sample(
    flow: Flow, count: int, context: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What the flow makes of the noise of seed 0: samples ``[count, D]`` and their log-densities ``[count]``."""
    device = flow.context_location.device
    base = flow.base.fold()
    drawn = torch.as_tensor(standard_normal(0, 0, count, base.noise_size), device=device)
    noise = base.from_noise(drawn).reshape(count, *flow.event_shape)
    given = None
    if context is not None:
        given = flow.standard_context(torch.as_tensor(context, device=device).reshape(-1, *(flow.context_shape or ())))
    samples, log_det = flow.bijector.forward_and_log_det(noise, given)
    if flow.whole_columns:
        samples = flow.rounded(samples)
        noise, inverse_log_det = flow.bijector.inverse_and_log_det(samples, given)
        log_det = -inverse_log_det
    log_prob = flow.base.log_prob(noise) - log_det
    return samples.reshape(count, -1).cpu().numpy().astype(np.float64), log_prob.cpu().numpy().astype(np.float64)


def _compare_samples(expected: npt.NDArray[np.float64], answered: npt.NDArray[np.float64], epsilon: float) -> None:
    size = np.maximum(np.abs(expected).max(0), 1e-30)
    difference = (np.abs(expected - answered) / size).max()
    if not difference <= _ROUNDINGS * epsilon:
        raise ExportError(
            f"the exported samples are off by up to {difference:.3g} of a column's size on {len(expected)} rows, where "
            f"rounding explains {_ROUNDINGS * epsilon:.3g}; the export is refused"
        )


def _compare(
    what: str, expected: npt.NDArray[np.float64], answered: npt.NDArray[np.float64], tolerance: float
) -> float:
    """The largest difference; rows where the flow itself is not finite must be so in the scorer too.

    A far row's log-density is large, and its rounding with it, so each row may be off by its own share.
    """
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(answered)):
        raise ExportError(
            f"the exported {what} is finite on {int(np.isfinite(answered).sum())} of {len(expected)} rows and the "
            f"flow's on {int(finite.sum())}; the export is refused"
        )
    if not finite.any():
        raise ExportError(
            f"the {what} is not finite on any of {len(expected)} rows; the flow has not been trained well"
        )
    difference = np.abs(expected[finite] - answered[finite])
    allowed = tolerance * np.maximum(
        1.0, np.abs(expected[finite]) / max(1.0, float(np.median(np.abs(expected[finite]))))
    )
    if bool((difference > allowed).any()):
        raise ExportError(
            f"the exported {what} is off by up to {difference.max():.3g} nats on {len(expected)} rows, where rounding "
            f"explains {tolerance:.3g}; the export is refused"
        )
    return float(difference.max())
