"""The Normal of greatest likelihood as a first candidate: no training has to find what has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from flowmodel.bijectors.base import Bijector
from flowmodel.bijectors.compose import chain_of
from flowmodel.bijectors.gaussian import become_gaussian_, can_be_gaussian
from flowmodel.distributions import Flow
from flowmodel.training.source import Batch, Source, jittered

_ROWS = 8192


@torch.no_grad()
def become_gaussian(flow: Flow, source: Source, seed: int) -> bool:
    """Set an untrained flow to the Normal that fits the training rows best, if its plan has a layer for that.

    The layer is the nearest to the data of those with ``skip_connections="fitted"``; what lies between it and the data
    stays as it is. Contexts have no part in it.

    Args:
        flow: The flow, standardised.
        source: Its rows.
        seed: Of the noise that spreads whole numbers.

    Returns:
        Whether it was set.
    """
    before: list[Bijector] = []
    for part in reversed(chain_of(flow.bijector)):
        if can_be_gaussian(part):
            return become_gaussian_(part, *_moments(flow, source, before, torch.Generator().manual_seed(seed)))
        before.append(part)
    return False


def _moments(flow: Flow, source: Source, before: list[Bijector], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the training rows behind the parts that they meet before, in float64."""
    count, size = 0, flow.bijector.event_size
    mean = torch.zeros(size, dtype=torch.float64, device=source.device)
    products = torch.zeros(size, size, dtype=torch.float64, device=source.device)
    for batch in source.train():
        for piece in batch.pieces(_ROWS):
            rows = _pulled(flow, before, piece, generator).to(torch.float64)
            # Merged as in Chan, Golub and LeVeque (1983), so that nothing is lost to a large mean.
            own_mean = rows.mean(0)
            centred, difference = rows - own_mean, own_mean - mean
            total = count + len(rows)
            products += centred.T @ centred + torch.outer(difference, difference) * (count * len(rows) / total)
            mean = mean + difference * (len(rows) / total)
            count = total
    return mean, products / count


def _pulled(flow: Flow, before: list[Bijector], batch: Batch, generator: torch.Generator) -> Tensor:
    rows = jittered(flow, batch.rows, generator).reshape(len(batch), -1)
    context = flow.standard_context(batch.context)
    context = None if context is None else context.reshape(len(batch), -1)
    for part in before:
        rows = part.pull(rows, context)[0]
    return rows
