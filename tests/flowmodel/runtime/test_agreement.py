"""The check of a kernel against TorchScript: a fault is found, and rounding is none, at edges too."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from bases import BASES, base
from flows import PLANS, READING, scorer_of, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import export_scorer
from flowmodel.kernel import library
from flowmodel.kernel.native_flow import NativeFlow
from flowmodel.runtime.agreement import disagreement
from flowmodel.runtime.native import native_flow
from flowmodel.training.recipe import default_flow

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler when the package was installed")

CPU = torch.device("cpu")
MIXED = (bij.Integer(0), bij.Real(), bij.Positive(), bij.Bounded(0, 1), bij.Periodic(0, 360), bij.Integer(1, 9))


def mixed_flow() -> dist.Flow:
    """The default flow over columns of every kind, its counts in thousands."""
    flow = default_flow(6, hidden=(24, 24), supports=MIXED)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    columns = torch.rand(200, 6, dtype=torch.float64) * torch.tensor([5000.0, 7, 3, 0.98, 360, 8.99]) + 0.01
    columns[:, [0, 5]] = (columns[:, [0, 5]] - 0.01).floor() + torch.tensor([0.0, 1.0])
    flow.standardize_(columns)
    return flow


def stack() -> dist.Flow:
    layer = bij.Invert(bij.AffineAutoregressive(params.DenseAutoregressive((24, 24))))
    spline = bij.SplineAutoregressive(params.DenseAutoregressive((24, 24)), order="quadratic")
    return trained_flow(bij.Compose([layer, bij.Permute(), spline, bij.Standardize()]), (5,), None, torch.float32)


@pytest.mark.parametrize("name", PLANS)
def test_every_flow_agrees_in_float32(name):
    scorer = scorer_of(trained_flow(PLANS[name], (5,), (3,) if name in READING else None, torch.float32))
    assert disagreement(scorer, NativeFlow(scorer), CPU) is None


@pytest.mark.parametrize("name", BASES)
def test_every_base_agrees_in_float32(name):
    layer = bij.Invert(bij.AffineAutoregressive(params.DenseAutoregressive((16,))))
    flow = dist.Flow(base(name, (4,), torch.float32), bij.Compose([layer, bij.Standardize()]))
    flow.standardize_(torch.randn(50, 4, dtype=torch.float64) + 100)
    scorer = scorer_of(flow)
    assert disagreement(scorer, NativeFlow(scorer), CPU) is None


def test_whole_numbers_that_rounding_parts_are_no_fault():
    scorer = scorer_of(mixed_flow())
    native = NativeFlow(scorer)
    assert disagreement(scorer, native, CPU) is None
    noise = np.random.default_rng(0).standard_normal((20000, 6))
    with torch.inference_mode():
        rows = scorer.sample(torch.from_numpy(noise))[0].numpy()
    # The premise: among so many some do differ, and by 1.
    assert set(np.abs(native.sample(noise)[0] - rows)[:, 0]) == {0.0, 1.0}


def moved(buffer: str, by: float):
    def fault(scorer):
        scorer.get_buffer(buffer).view(-1)[-1] += by

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        moved("bijector.parts.0.inner.network.layers.1.weight", 2e-2),
        moved("bijector.parts.0.inner.network.layers.2.bias", 1e-3),
        moved("bijector.parts.2.network.layers.2.bias", 1e-2),
        moved("bijector.parts.3.location", 1e-3),
        moved("base.loc", 1e-3),
        moved("base.log_normaliser", 1e-3),
    ],
)
def test_a_number_that_is_a_little_off_is_found(fault):
    flow = stack()
    other = scorer_of(flow)
    fault(other)
    assert disagreement(scorer_of(flow), NativeFlow(other), CPU) is not None


class Faulty:
    """The kernel with answers changed."""

    def __init__(self, native, of_log_prob=lambda log_prob: log_prob, of_rows=lambda rows: rows):
        self.native, self.of_log_prob, self.of_rows = native, of_log_prob, of_rows

    def log_prob(self, rows, context=None, threads=1):
        return self.of_log_prob(self.native.log_prob(rows, context))

    def sample(self, noise, context=None, threads=1):
        rows, log_prob = self.native.sample(noise, context)
        return self.of_rows(rows), log_prob


@pytest.mark.parametrize(
    ("faulty", "said"),
    [
        ({"of_log_prob": lambda p: np.where(np.isinf(p), -1e4, p)}, "outliers"),
        ({"of_log_prob": lambda p: np.where(np.isinf(p), np.nan, p)}, "outliers"),
        ({"of_log_prob": lambda p: np.where(np.arange(len(p)) == 7, np.nan, p)}, "samples"),
        ({"of_log_prob": lambda p: p + 0.01 * (np.arange(len(p)) == 7)}, "samples"),
        ({"of_rows": lambda r: r + 2.0 * (np.arange(6) == 5)}, "sample 0"),
        ({"of_rows": lambda r: r * np.where(np.arange(6) == 2, 1.001, 1)}, "sample 0"),
        ({"of_rows": lambda r: np.where(np.arange(6) == 4, np.nan, r)}, "sample 0"),
    ],
)
def test_a_fault_of_a_few_answers_is_found(faulty, said):
    scorer = scorer_of(mixed_flow())
    assert said in str(disagreement(scorer, Faulty(NativeFlow(scorer), **faulty), CPU))


def test_a_flow_without_digits_in_float32_is_compared_in_float64(caplog, tmp_path):
    flow = default_flow(30, hidden=(64, 64))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.25 * torch.randn_like(parameter)
    flow.standardize_(torch.randn(200, 30, dtype=torch.float64))
    scorer = scorer_of(flow)
    native = NativeFlow(scorer)
    assert "too far to compare" in str(disagreement(scorer, native, CPU))
    assert disagreement(scorer, native, CPU, NativeFlow) is None
    exported = torch.jit.load(export_scorer(flow, tmp_path / "scorer.pt"))
    with caplog.at_level(logging.WARNING):
        assert native_flow(exported) is not None
    assert not caplog.records
    wrong = disagreement(scorer, native, CPU, lambda exact: Faulty(NativeFlow(exact), lambda p: p + 1e-3))
    assert "further apart" in str(wrong)
