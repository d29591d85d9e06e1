"""The fused kernel answers as torch does: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flows import PLANS, contexts, trained_flow

pytest.importorskip("triton", reason="Triton is not installed: it is made for Linux alone")

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import Scorer
from flowmodel.kernel.cuda import packing
from flowmodel.kernel.cuda.fused_flow import FusedFlow
from flowmodel.kernel.native_flow import NotCoveredError
from flowmodel.runtime import device, native

AR = bij.AffineAutoregressive
MADE = params.DenseAutoregressive
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
"""Some tens of float32 roundings of numbers around ten: sums are taken in another order."""

COVERED = [
    *(name for name in PLANS if name.startswith("autoregressive")),
    "invert",
    "invert-invert",
    "stack",
    "nested",
    "preprocessed",
]


def scorer_of(flow: dist.Flow) -> Scorer:
    names = [f"x{i}" for i in range(flow.bijector.event_size)]
    return Scorer(flow, names, [f"c{i}" for i in range(flow.bijector.context_size)]).eval()


def check_both_directions(scorer: Scorer, count: int, context: torch.Tensor | None) -> None:
    noise = torch.randn(count, scorer.event_size, dtype=torch.float64)
    with torch.no_grad():
        rows, log_prob = scorer.sample(noise, context)
        scored = scorer.log_prob(rows, context)
    fused = FusedFlow(scorer, DEVICE)
    there = None if context is None else context.to(DEVICE)
    drawn, drawn_log_prob = fused.sample(noise.to(DEVICE), there)
    torch.testing.assert_close(drawn.cpu(), rows, **TOLERANCE)
    torch.testing.assert_close(drawn_log_prob.cpu(), log_prob, **TOLERANCE)
    torch.testing.assert_close(fused.log_prob(rows.to(DEVICE), there).cpu(), scored, **TOLERANCE)


@pytest.mark.parametrize(("size", "context_shape"), [(1, None), (2, (1,)), (5, (3,)), (9, None)])
@pytest.mark.parametrize("name", COVERED)
def test_both_directions_agree_with_torch(name, size, context_shape):
    flow = trained_flow(PLANS[name], (size,), context_shape, torch.float32)
    check_both_directions(scorer_of(flow), 21, contexts(21, context_shape, torch.float64))


@pytest.mark.parametrize("most_units", [16, 32])
@pytest.mark.parametrize("direction", [AR, lambda *a, **k: bij.Invert(AR(*a, **k))])
def test_several_blocks_of_degrees(direction, most_units, monkeypatch):
    monkeypatch.setattr(packing, "MAX_UNITS", most_units)
    made = MADE((45, 37), permutation=(3, 0, 4, 8, 1, 2, 6, 5, 7), skip_connections=True)
    flow = trained_flow(direction(made, clamp_values=True), (9,), (3,), torch.float32)
    assert len(packing.blocks_of(packing_layer(flow))) >= 3
    check_both_directions(scorer_of(flow), 18, contexts(18, (3,), torch.float64))


def packing_layer(flow: dist.Flow):
    from flowmodel.kernel.cuda.layers import FlowLayers

    steps, _ = FlowLayers(scorer_of(flow)).pull()
    return steps[0][1]


def test_a_degree_with_more_units_than_a_block_holds():
    flow = trained_flow(AR(MADE((150, 300))), (1,), None, torch.float32)
    check_both_directions(scorer_of(flow), 3, None)
    flow = trained_flow(AR(MADE((300, 290))), (2,), None, torch.float32)
    check_both_directions(scorer_of(flow), 3, None)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40, 70, 130])
def test_ragged_batches(count):
    flow = trained_flow(bij.Compose([AR(MADE((20,))), bij.Permute(), AR(MADE((20,)))]), (3,), (2,), torch.float32)
    check_both_directions(scorer_of(flow), count, contexts(count, (2,), torch.float64))


def test_wide_tiles(monkeypatch):
    flow = trained_flow(AR(MADE((20, 20))), (4,), None, torch.float32)
    monkeypatch.setattr(FusedFlow, "rows_per_program", lambda self, count: 64)
    check_both_directions(scorer_of(flow), 150, None)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh", "elu", "leaky_relu", "sigmoid", "softplus"])
@pytest.mark.parametrize("scale_fn", ["bounded", "exp", "softplus", "sigmoid"])
def test_every_activation_and_scale_far_out(nonlinearity, scale_fn):
    plan = bij.Invert(AR(MADE((20,), nonlinearity=nonlinearity), scale_fn=scale_fn))
    flow = trained_flow(plan, (2,), None, torch.float32)
    # Where exponentials overflow and underflow in what a naive formula computes.
    rows = torch.linspace(-40, 40, 41)[:, None] * torch.tensor([1.0, -0.3])
    scorer = scorer_of(flow)
    with torch.no_grad():
        expected = scorer.log_prob(rows)
    answered = FusedFlow(scorer, DEVICE).log_prob(rows.to(DEVICE)).cpu()
    torch.testing.assert_close(answered, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_spoils_only_itself(bad):
    flow = trained_flow(bij.Compose([AR(MADE((24, 24))), bij.Permute(), AR(MADE((24,)))]), (5,), None, torch.float32)
    fused = FusedFlow(scorer_of(flow), DEVICE)
    rows = torch.randn(70, 5, device=DEVICE)
    good = fused.log_prob(rows)
    # Each program takes several tiles one after the other, in the same scratch.
    for place in (1, 20, 69):
        spoiled = rows.clone()
        spoiled[place, 2] = bad
        answered = fused.log_prob(spoiled)
        assert not torch.isfinite(answered[place])
        keep = torch.arange(70, device=DEVICE) != place
        torch.testing.assert_close(answered[keep], good[keep], rtol=0, atol=0)


def test_float64_data_keep_what_standardisation_needs():
    flow = trained_flow(bij.Compose([AR(MADE((24,))), bij.Standardize()]), (2,), None, torch.float32)
    flow.standardize_(1e9 + torch.randn(50, 2, dtype=torch.float64), None)
    rows = 1e9 + torch.randn(20, 2, dtype=torch.float64)
    scorer = scorer_of(flow)
    with torch.no_grad():
        expected = scorer.log_prob(rows)
    answered = FusedFlow(scorer, DEVICE).log_prob(rows.to(DEVICE)).cpu()
    torch.testing.assert_close(answered, expected, **TOLERANCE)


def test_bases_with_a_location_and_a_scale():
    base = torch.distributions.Normal(torch.tensor([3.0, -1.0, 500.0]), torch.tensor([0.5, 2.0, 0.25]))
    flow = dist.Flow(torch.distributions.Independent(base, 1), bij.Compose([bij.Affine(), bij.Invert(AR(MADE((24,))))]))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    scorer = scorer_of(flow)
    fused = FusedFlow(scorer, DEVICE)
    noise = torch.randn(20, 3)
    with torch.no_grad():
        rows, log_prob = scorer.sample(noise)
    drawn, drawn_log_prob = fused.sample(noise.to(DEVICE))
    torch.testing.assert_close(drawn.cpu(), rows, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(drawn_log_prob.cpu(), log_prob, rtol=1e-4, atol=1e-4)
    # A rounding of 500 is 1e-4 of the deviation there.
    with torch.no_grad():
        scored = scorer.log_prob(rows)
    torch.testing.assert_close(fused.log_prob(rows.to(DEVICE)).cpu(), scored, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("plan", "dtype", "says"),
    [
        (bij.SplineAutoregressive(MADE((24,))), torch.float32, "FoldedAutoregressive"),
        (bij.Invert(bij.AffineCoupling()), torch.float32, "inside Invert"),
        (AR(MADE((24,))), torch.float64, "float64"),
        (bij.Permute(), torch.float32, "no autoregressive layer"),
    ],
)
def test_what_is_not_covered_is_said(plan, dtype, says):
    with pytest.raises(NotCoveredError, match=says):
        FusedFlow(scorer_of(trained_flow(plan, (3,), None, dtype)), DEVICE)


def test_blocks_hold_every_degree_once_and_no_more_units_than_fit():
    flow = trained_flow(AR(MADE((512, 300))), (21,), None, torch.float32)
    layer = packing_layer(flow)
    starts = packing.blocks_of(layer)
    assert starts[0] == 0
    assert starts[-1] == 21
    assert starts == sorted(set(starts))
    for offsets in layer.offsets:
        below = np.array([0, *offsets])
        assert (np.diff(below[starts]) <= packing.MAX_UNITS).all()


def test_it_compiles_for_a_gpu_without_one():
    """The interpreter takes more than the compiler does, so the compiler is asked as well."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = str(Path(__file__).with_name("compiled.py"))
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, check=True)
    directions = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(directions) == 2
    for counts in directions:
        # Two programs share the 227 KiB of one processor of an H100.
        assert counts["shared"] <= 113 * 1024
        assert counts[r"fma\.rn\.f32"] > 500, "products are float32 multiply-adds"
        assert counts[r"mma\."] == 0, "and not TF32"
        assert counts[r"ld\.global\.nc"] == 0, "scratch that was just written is not read through the read-only cache"


def test_the_runtime_stages_rows_for_it(monkeypatch):
    monkeypatch.setattr(device, "_LARGEST_STAGE", 40)
    flow = trained_flow(AR(MADE((20,))), (3,), (2,), torch.float32)
    scorer = scorer_of(flow)
    staged = device.DeviceFlow(FusedFlow(scorer, DEVICE), scorer, DEVICE, "triton", (16,), splits=False)
    context = contexts(90, (2,), torch.float64)
    noise = torch.randn(90, 3, dtype=torch.float64)
    with torch.no_grad():
        rows, log_prob = scorer.sample(noise, context)
    for count in (3, 16, 17, 90):
        drawn, drawn_log_prob = staged.sample(noise[:count].numpy(), context[:count].numpy())
        np.testing.assert_allclose(drawn, rows[:count], **TOLERANCE)
        np.testing.assert_allclose(drawn_log_prob, log_prob[:count], **TOLERANCE)
        scored = staged.log_prob(rows[:count].numpy(), context[:count].numpy())
        np.testing.assert_allclose(scored, log_prob[:count], rtol=1e-4, atol=1e-4)


def test_the_runtime_checks_it_against_torchscript(monkeypatch, caplog):
    monkeypatch.setattr(device, "_LARGEST_STAGE", 16)
    monkeypatch.setattr(native, "FUSED_STAGES", (16,))
    monkeypatch.setattr(native, "LAUNCHED_STAGES", (16,))
    scorer = scorer_of(trained_flow(AR(MADE((20,))), (3,), None, torch.float32))
    assert native.device_flow(scorer, DEVICE).instruction_set == "triton"
    spline = scorer_of(trained_flow(bij.SplineAutoregressive(MADE((20,))), (3,), None, torch.float32))
    assert native.device_flow(spline, DEVICE).instruction_set == "torchscript"
    monkeypatch.setattr(FusedFlow, "log_prob", lambda self, rows, context=None: rows.new_zeros(len(rows)))
    assert native.device_flow(scorer, DEVICE).instruction_set == "torchscript"
    assert "not the fused kernel" in caplog.text
