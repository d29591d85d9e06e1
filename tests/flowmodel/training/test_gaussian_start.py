"""The Normal of greatest likelihood is a candidate of every training by the default plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import flowmodel.bijectors as bij
from flowmodel.data.parquet_rows import ParquetRows
from flowmodel.distributions import Flow
from flowmodel.training import fit
from flowmodel.training.gaussian_start import become_gaussian
from flowmodel.training.in_memory import InMemory
from flowmodel.training.recipe import default_flow
from flowmodel.training.streamed import Streamed

MIXING = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 0.7]])


def normal_rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)) @ MIXING + 4


def greatest_likelihood(rows):
    return torch.distributions.MultivariateNormal(
        torch.from_numpy(rows.mean(0)), torch.from_numpy(np.cov(rows.T, bias=True))
    )


@pytest.mark.parametrize("kind", ["memory", "chunked"])
def test_the_default_flow_becomes_it_from_rows_in_memory_or_in_chunks(tmp_path, kind):
    rows = normal_rows(600)
    flow = default_flow(3, hidden=(8,)).to(torch.float64)
    if kind == "memory":
        source, train = InMemory(flow, rows, None, rows[:10], None, 0), rows
    else:
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table(dict(zip("abc", rows.T, strict=True))), path, row_group_size=70)
        data = ParquetRows(path, chunk_rows=100)
        source = Streamed(flow, data, 0.1, 0)
        train = np.concatenate(list(data.split(validation=0.1, test=0.0, seed=0)[0].chunks()))
    source.standardize_(torch.Generator())
    assert become_gaussian(flow, source, seed=0)
    given = torch.from_numpy(np.concatenate([rows, 10 * normal_rows(50, seed=1)]))
    # Exact but for rounding: sums of some hundred products.
    torch.testing.assert_close(flow.log_prob(given), greatest_likelihood(train).log_prob(given), rtol=1e-9, atol=1e-9)


def test_few_normal_rows_leave_the_flow_that_normal():
    rows, held_out = normal_rows(200), normal_rows(4000, seed=1)
    flow = default_flow(3)
    result = fit(flow, rows, validation=held_out, max_epochs=3)
    expected = greatest_likelihood(rows).log_prob(torch.from_numpy(held_out))
    with torch.no_grad():
        # Of a flow in float32.
        torch.testing.assert_close(flow.log_prob(torch.from_numpy(held_out)).double(), expected, rtol=1e-4, atol=1e-4)
    assert result.best_epoch == 0
    assert result.best.validation_nll == pytest.approx(-expected.mean().item(), abs=1e-4)
    assert len(result.history) == 4


def test_rows_far_from_normal_are_learnt_as_if_there_were_no_such_candidate():
    random = np.random.default_rng(0)
    x = random.normal(size=600)
    rows = np.column_stack([x, x**2 + 0.1 * random.normal(size=600)])
    flow = default_flow(2)
    # The same first weights under a plan that names no layer to be fitted.
    plain = bij.Compose(list(_without_fitted(flow.plan)))
    without = Flow(flow.base_dist, plain)
    missing = without.load_state_dict(flow.state_dict(), strict=False)
    assert [name.split(".")[-1] for name in missing.unexpected_keys] == ["skip_weight"]
    for each in (flow, without):
        result = fit(each, rows, max_epochs=12)
        assert result.best_epoch > 0
    with torch.no_grad():
        given = torch.from_numpy(rows)
        assert torch.equal(flow.log_prob(given), without.log_prob(given))


def _without_fitted(plan):
    for part in plan.bijectors:
        if isinstance(part, bij.Invert) and isinstance(part.bijector, bij.AffineAutoregressive):
            yield bij.Invert(bij.AffineAutoregressive(_plain(part.bijector.params_fn)))
        else:
            yield part


def _plain(conditioner):
    return type(conditioner)(conditioner.hidden_dims, conditioner.nonlinearity, conditioner.permutation)


def test_contexts_and_whole_numbers_are_no_hindrance():
    random = np.random.default_rng(0)
    context = random.normal(size=(300, 1))
    rows = np.column_stack([random.poisson(20, 300), 3 * context[:, 0] + random.normal(size=300)])
    flow = default_flow(2, 1, supports=(bij.Integer(0), bij.Real()))
    result = fit(flow, rows, context=context, max_epochs=2)
    assert np.isfinite(result.best.validation_nll)


def test_an_interrupted_training_may_end_as_the_normal_too(tmp_path):
    rows, held_out = normal_rows(200), normal_rows(1000, seed=1)
    whole, parted = default_flow(3), default_flow(3)
    fit(whole, rows, validation=held_out, max_epochs=4)
    settings = {"validation": held_out, "checkpoint": tmp_path / "checkpoint"}
    fit(parted, rows, max_epochs=2, **settings)
    again = default_flow(3)
    result = fit(again, rows, max_epochs=4, resume=True, **settings)
    assert result.best_epoch == 0
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name]), name


def test_two_processes_together_end_as_the_same_normal(tmp_path):
    rows, held_out = normal_rows(200), normal_rows(4000, seed=1)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "held_out.npy", held_out)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(Path(__file__).with_name("grouped.py")), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert ended.returncode == 0, ended.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["best_epoch"] == 0
    weights, others = (load_file(tmp_path / f"{rank}.weights") for rank in (0, 1))
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    flow = default_flow(3, layers=3, hidden=(8,))
    flow.load_state_dict(weights)
    given = torch.from_numpy(held_out)
    with torch.no_grad():
        # Of a flow in float32.
        learnt = flow.log_prob(given).double()
    torch.testing.assert_close(learnt, greatest_likelihood(rows).log_prob(given), rtol=1e-4, atol=1e-4)
