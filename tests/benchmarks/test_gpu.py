"""The GPU benchmark: that it runs from end to end in Triton's interpreter, says when there is no GPU, and judges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bench_gpu
import pytest
import torch

PROGRAM = Path(bench_gpu.__file__)


def run(*options: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_the_program_runs_in_the_interpreter_and_records_nothing():
    pytest.importorskip("triton")
    before = sorted(bench_gpu.RESULTS.iterdir())
    shown = run("--interpret")
    assert "no GPU: Triton's interpreter" in shown
    for dims, hidden, layers in bench_gpu.TINY.flows:
        assert f"## D = {dims}, H = {hidden}, {layers} layers" in shown
    assert "FlowTorch" in shown
    errors = [
        line.split("|")[3] for line in shown.splitlines() if line.startswith(("| scorer", "| kernel", "| captured"))
    ]
    assert len(errors) == 6
    assert all(float(error) < 1e-4 for error in errors)
    assert sorted(bench_gpu.RESULTS.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line():
    (line,) = run().splitlines()
    assert "no GPU" in line


def test_figures_are_held_against_the_targets():
    def batch(rows: int, milliseconds: float) -> dict:
        return {"rows": rows, "times": {"kernel": {"ms": milliseconds}}}

    flow = {
        "size": [21, 512, 5],
        "handler_one_row": {"ms": 0.2},
        "batches": [batch(1024, 9), batch(16384, 1), batch(65536, 8)],
    }
    training = {"size": [63, 512, 1024], "times": {"flowmodel": {"ms": 2.0}, "FlowTorch": {"ms": 30.0}}}
    one_row, rate, step = bench_gpu.verdicts([flow], training)
    assert (one_row.measured, one_row.reached) == (0.2, True)
    assert (rate.measured, rate.reached) == (65536 / 8e-3, False)
    assert (step.measured, step.reached) == (15.0, False)
