"""A training that was killed goes on to the very same weights, or says why it cannot."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flowmodel.errors import TrainingError
from flowmodel.training import fit
from flowmodel.training.recipe import default_flow

PROGRAM = Path(__file__).with_name("killed.py")


def table(rows=400):
    random = np.random.default_rng(0)
    x, context = random.normal(size=(2, rows))
    return np.column_stack([x + context, x**2 + random.normal(size=rows), context])


def start(kind, folder, name, last_epoch):
    command = [sys.executable, str(PROGRAM), kind, str(folder), name, str(last_epoch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["memory", "chunked"])
def test_killed_and_resumed_ends_with_the_bits_of_a_run_never_interrupted(tmp_path, kind, computed_by):
    np.save(tmp_path / "rows.npy", table())
    columns = dict(zip("abc", table().T, strict=True))
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=90)
    whole = start(kind, tmp_path, "whole", 0)
    told, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0
    killed = start(kind, tmp_path, "killed", 5)
    while killed.stdout.readline() != "5\n":
        pass
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed").is_file()
    resumed = start(kind, tmp_path, "killed", 0)
    told_again, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert 1 < int(told_again.split()[0]) <= 6
    assert told_again.splitlines()[-1] == told.splitlines()[-1]
    assert (tmp_path / "killed.weights").read_bytes() == (tmp_path / "whole.weights").read_bytes()


def small_flow(layers=1):
    return default_flow(2, layers=layers, hidden=(8,), seed=0)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "some" / "where"
    fit(small_flow(), table()[:, :2], max_epochs=2, checkpoint=path)
    return path


def test_a_finished_training_is_not_done_again_and_more_epochs_go_on(saved):
    again, seen = small_flow(), []
    result = fit(again, table()[:, :2], max_epochs=2, checkpoint=saved, resume=True, progress=seen.append)
    assert seen == []
    assert result.epochs == 2
    longer = small_flow()
    fit(longer, table()[:, :2], max_epochs=4, checkpoint=saved, resume=True, progress=seen.append)
    assert [epoch.number for epoch in seen] == [3, 4]
    whole = small_flow()
    fit(whole, table()[:, :2], max_epochs=4)
    assert all(torch.equal(value, longer.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(TrainingError, match=r"max_epochs=1, and the checkpoint .* is of epoch 4"):
        fit(small_flow(), table()[:, :2], max_epochs=1, checkpoint=saved, resume=True)


@pytest.mark.parametrize(
    ("layers", "rows", "changed", "message"),
    [
        (1, 400, {"learning_rate": 0.1}, r"learning_rate \(then 0.003, now 0.1\) differ"),
        (1, 400, {"seed": 1}, r"another training: data, seed \(then 0, now 1\) differ"),
        (1, 401, {}, r"another training: data, weight_decay .* differ"),
        (2, 400, {}, "another training: plan differ"),
        (1, 400, {"validation": 0.2}, "another training: data"),
    ],
)
def test_another_training_is_refused_naming_what_differs(saved, layers, rows, changed, message):
    with pytest.raises(TrainingError, match=message):
        fit(small_flow(layers), table(rows)[:, :2], checkpoint=saved, resume=True, max_epochs=3, **changed)


def test_the_same_number_of_other_rows_is_other_data(saved):
    with pytest.raises(TrainingError, match="another training: data differ"):
        fit(small_flow(), table()[:, :2] + 1, checkpoint=saved, resume=True, max_epochs=3)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""])
def test_a_damaged_checkpoint_is_refused(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(TrainingError, match=r"is damaged .*; delete it and train from the start"):
        fit(small_flow(), table()[:, :2], checkpoint=saved, resume=True, max_epochs=3)


def test_a_failed_write_leaves_nothing_and_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"the checkpoint .*file/inside cannot be written"):
        fit(small_flow(), table()[:, :2], checkpoint=tmp_path / "file" / "inside", max_epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_resuming_needs_a_place_and_starts_anew_where_nothing_was_saved(tmp_path):
    with pytest.raises(TrainingError, match="resume=True without a checkpoint"):
        fit(small_flow(), table()[:, :2], resume=True)
    assert fit(small_flow(), table()[:, :2], max_epochs=1, checkpoint=tmp_path / "new", resume=True).epochs == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
