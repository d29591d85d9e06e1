"""``flowmodel train`` in two processes: real ones, started by torchrun, over gloo on the loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

OPTIONS = ["--model", "m", "--layers", "2", "--hidden", "16", "--max-epochs", "3", "--batch-size", "75"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=240)


def published(store: Path) -> tuple[dict[str, np.ndarray], dict]:
    versions = sorted(path.name for path in (store / "m").iterdir())
    assert versions == ["1"]
    return load_file(store / "m/1/weights.safetensors"), json.loads((store / "m/1/manifest.json").read_text())


def test_two_processes_train_what_one_trains(tmp_path):
    rows = np.random.default_rng(0).standard_normal((400, 3)).cumsum(1)
    np.save(tmp_path / "rows.npy", rows)
    train = ["flowmodel", "train", str(tmp_path / "rows.npy"), *OPTIONS, "--store"]
    alone = run("-m", *train, str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    together = run(*launcher, *train, str(tmp_path / "two"))
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("Published m version 1") == 1
    (one, by_one), (two, by_two) = published(tmp_path / "one"), published(tmp_path / "two")
    # Batches of 75 are cut into 38 and 37: a mean of unequal means would be off by a percent. The gradients are
    # summed in another order, and Adam makes steps of rounding where a gradient is nought: hence 1e-3.
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=0, atol=1e-3, err_msg=name)
    assert abs(by_one["training"]["test_nll"] - by_two["training"]["test_nll"]) < 1e-3


def test_a_mistake_ends_both_processes(tmp_path):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\nx,4\n")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    together = run(*launcher, "flowmodel", "train", str(tmp_path / "bad.csv"), *OPTIONS, "--store", str(tmp_path / "s"))
    assert together.returncode != 0
    assert "row 2 (line 3), column 'a'" in together.stderr
    assert not (tmp_path / "s" / "m").exists()
