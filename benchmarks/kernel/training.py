"""One training step, forward and backward of the mean negative log-density, of our layer and of its peers'.

A peer's layer has the same size and weights of its own; only FlowTorch and ours train through the inverse of the
network. zuko's and nflows' layers go the other way, in which the density is one pass; nflows also through its D passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import flowmodel.distributions as dist
from kernel import peers
from kernel.stopwatch import Call
from kernel.subject import Subject, standard_normal_log_prob

Step = tuple[torch.nn.Module, Callable[[Tensor], Tensor]]
"""The module, and what gives its log-densities of rows."""

OURS, OURS_INVERTED = "flowmodel", "flowmodel, Invert"
ZUKO, ZUKO_D = "zuko, single pass", "zuko, D passes"
NFLOWS, NFLOWS_D = "nflows, single pass", "nflows, D passes"
FLOWTORCH = "FlowTorch"


def build(name: str, dims: int, hidden: int) -> Step:
    """One of the names above."""
    subject = Subject(dims, hidden)
    if name in (OURS, OURS_INVERTED):
        flow: dist.Flow = subject.flow if name == OURS else subject.inverted()
        return flow, flow.log_prob
    if name == FLOWTORCH:
        flow = peers.flowtorch_flow(dims, hidden)
        return flow, flow.log_prob
    if name in (ZUKO, ZUKO_D):
        layer = peers.zuko_layer(dims, hidden)
        return layer, lambda rows: _log_prob(*(layer() if name == ZUKO else layer().inv).call_and_ladj(rows))
    layer = peers.nflows_layer(dims, hidden)
    return layer, lambda rows: _log_prob(*(layer.forward if name == NFLOWS else layer.inverse)(rows))


def step(built: Step, rows: Tensor) -> Call:
    module, log_prob = built

    def run() -> None:
        module.zero_grad()
        (-log_prob(rows).mean()).backward()

    return run


def offered(chosen: list[str], *, d_passes: bool = True) -> list[str]:
    """The names that can be built when these peers are chosen."""
    names = [OURS, OURS_INVERTED]
    names += [FLOWTORCH] * ("FlowTorch" in chosen) + [ZUKO] * ("zuko" in chosen) + [NFLOWS] * ("nflows" in chosen)
    return names + [NFLOWS_D] * ("nflows" in chosen and d_passes)


def gradient_error(subject: Subject, rows: Tensor) -> float:
    """The largest error of a weight's or bias' gradient, relative to the largest of that tensor, against float64."""
    made = subject.flow.bijector.made
    subject.flow.zero_grad()
    (-subject.flow.log_prob(rows).mean()).backward()
    found: list[Any] = [parameter.grad for parameter in [*made.weights, *made.biases]]
    expected = subject.reference_gradient(rows)
    return max(
        float((own.double() - its).abs().max() / its.abs().max().clamp(min=1e-12))
        for own, its in zip(found, expected, strict=True)
    )


def _log_prob(noise: Tensor, log_det: Tensor) -> Tensor:
    return standard_normal_log_prob(noise) + log_det
