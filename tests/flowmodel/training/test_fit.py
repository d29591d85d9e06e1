"""Training learns, repeats itself, keeps its best weights, and says what it cannot work with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel import fit
from flowmodel.data import split_rows
from flowmodel.errors import DataError, TrainingError


def make_flow(size, layers=2, context_shape=None, dtype=torch.float32, hidden=None):
    torch.manual_seed(0)
    conditioner = params.DenseAutoregressive(hidden_dims=hidden, nonlinearity="tanh")
    parts = [bij.Invert(bij.AffineAutoregressive(conditioner)) for _ in range(layers)]
    base = torch.distributions.Normal(torch.zeros(size, dtype=dtype), torch.ones(size, dtype=dtype))
    plan = bij.Compose([*parts, bij.Standardize()])
    return dist.Flow(torch.distributions.Independent(base, 1), plan, context_shape=context_shape)


def curved(count, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=count)
    return np.column_stack([100 + 5 * x, x**2 - 1 + 0.3 * random.normal(size=count)])


def curved_log_density(rows):
    x = (rows[:, 0] - 100) / 5
    residual = (rows[:, 1] - (x**2 - 1)) / 0.3
    return -0.5 * (x**2 + residual**2) - math.log(2 * math.pi) - math.log(5) - math.log(0.3)


def test_a_closed_form_density_is_learnt():
    flow = make_flow(2)
    result = fit(flow, curved(3000), max_epochs=50)
    rows = curved(20_000, seed=1)
    with torch.no_grad():
        learnt = flow.log_prob(torch.from_numpy(rows)).numpy()
    # The same rows on both sides, so that the noise of the sample cancels.
    divergence = float(np.mean(curved_log_density(rows) - learnt))
    assert 0 <= divergence < 0.05
    assert result.history[0].validation_nll > result.best.validation_nll + 0.5


def test_a_small_wide_table_beats_a_full_gaussian_on_rows_held_out():
    table = load_breast_cancer()
    benign = table.data[table.target == 1]
    split = split_rows(len(benign), seed=0)
    train, test = benign[split.train], benign[split.test]
    flow = make_flow(30, layers=3)
    result = fit(flow, train, validation=benign[split.validation], max_epochs=50)
    with torch.no_grad():
        nll = -flow.log_prob(torch.from_numpy(test)).mean().item()
    gaussian = torch.distributions.MultivariateNormal(
        torch.from_numpy(train.mean(0)), torch.from_numpy(np.cov(train.T, bias=True))
    )
    assert nll < -gaussian.log_prob(torch.from_numpy(test)).mean().item() - 5
    assert result.train_rows == len(split.train)


def test_a_seed_repeats_a_run_exactly_and_leaves_the_global_generator_alone(computed_by):
    rows = curved(400)
    runs = []
    for seed in (5, 5, 6):
        flow = make_flow(2)
        before = torch.random.get_rng_state()
        result = fit(flow, rows, seed=seed, max_epochs=4)
        assert torch.equal(torch.random.get_rng_state(), before)
        runs.append((result, flow.state_dict()))
    (first, weights), (again, same_weights), (other, _) = runs
    assert first == again
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert first.history != other.history


def test_the_best_weights_are_kept_not_the_last():
    train, validation = curved(30), curved(60, seed=1)
    flow = make_flow(2, layers=3)
    result = fit(flow, train, validation=validation, max_epochs=200, patience=15, weight_decay=0.0, learning_rate=0.02)
    with torch.no_grad():
        nll = -flow.log_prob(torch.from_numpy(validation)).double().mean().item()
    assert result.stopped == "patience"
    assert result.best_epoch < result.epochs
    assert result.best.validation_nll == min(epoch.validation_nll for epoch in result.history)
    assert nll == pytest.approx(result.best.validation_nll, abs=1e-9)


def test_weights_that_only_get_worse_are_not_kept():
    """Held-out rows from elsewhere: no step towards the training rows can help, and the untrained flow is returned."""
    train = np.random.default_rng(0).normal(size=(200, 2))
    flow = make_flow(2)
    fit(flow, train @ [[1, 0.999], [0, 0.04]], validation=-train @ [[1, -0.999], [0, 0.04]], max_epochs=5)
    untrained = make_flow(2)
    for name, value in untrained.bijector.named_parameters():
        assert torch.equal(dict(flow.bijector.named_parameters())[name], value)


def test_standardisation_comes_from_the_training_rows_alone():
    rows = curved(200)
    validation = curved(50, seed=1) + 1000
    flow = make_flow(2)
    fit(flow, rows, validation=validation, max_epochs=1)
    standardize = flow.bijector.chain[-1]
    np.testing.assert_allclose(standardize.location.numpy(), rows.mean(0))
    np.testing.assert_allclose(standardize.scale.numpy(), rows.std(0))
    kept = standardize.location.clone()
    fit(flow, rows + 5, max_epochs=1, standardize=False)
    assert torch.equal(standardize.location, kept)


def test_a_conditional_flow_learns_its_context():
    random = np.random.default_rng(0)
    context = random.uniform(-2, 2, size=(2000, 1))
    rows = 3 * context + 0.1 * random.normal(size=(2000, 1))
    flow = make_flow(1, context_shape=(1,))
    result = fit(flow, torch.from_numpy(rows), context=torch.from_numpy(context), max_epochs=40)
    exact = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.1)
    assert result.best.validation_nll == pytest.approx(exact, abs=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_offset_loses_nothing(dtype):
    """Time stamps in seconds, spread over a minute: float32 would round them to 128 seconds."""
    rows = curved(500) + np.array([1.7e9, 0])
    flow = make_flow(2, dtype=dtype)
    result = fit(flow, rows, max_epochs=8)
    shifted = fit(make_flow(2, dtype=dtype), curved(500), max_epochs=8)
    assert result.best.validation_nll == pytest.approx(shifted.best.validation_nll, abs=0.02)


def test_flows_without_standardisation_take_rows_in_their_own_dtype():
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    flow = dist.Flow(base, bij.Invert(bij.AffineAutoregressive()))
    rows = np.random.default_rng(0).normal(size=(100, 2))
    assert math.isfinite(fit(flow, rows, max_epochs=2).best.validation_nll)


def test_progress_is_told_each_epoch_and_may_end_it_with_the_best_weights_in_place():
    flow, seen = make_flow(2), []

    def stop_at_three(epoch):
        seen.append(epoch)
        if epoch.number == 3:
            raise KeyboardInterrupt

    validation = curved(50, seed=1)
    with pytest.raises(KeyboardInterrupt):
        fit(flow, curved(300), validation=validation, progress=stop_at_three)
    assert [epoch.number for epoch in seen] == [1, 2, 3]
    with torch.no_grad():
        nll = -flow.log_prob(torch.from_numpy(validation)).double().mean().item()
    assert nll == pytest.approx(min(epoch.validation_nll for epoch in seen), abs=1e-9)


def test_the_summary_is_json_and_counts_bits():
    result = fit(make_flow(2), curved(100), max_epochs=2, seed=9)
    summary = result.summary()
    assert summary["rows"] == {"train": 90, "validation": 10}
    assert summary["seed"] == 9
    assert summary["epochs"] == 2
    assert summary["validation_bits_per_dimension"] == pytest.approx(summary["validation_nll"] / (2 * math.log(2)))
    assert [epoch.number for epoch in result.history] == [0, 1, 2]


def broken(row, column, value):
    rows = curved(50)
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (broken(6, 1, np.nan), "data: row 7, column '1': found NaN or a missing value"),
        (broken(0, 0, -np.inf), "data: row 1, column '0': found minus infinity"),
        (np.column_stack([np.arange(50.0), np.full(50, 3.0)]), "data: column '1' has one value, 3, in all 50 rows"),
        (curved(1), "data: 1 row is fewer than needed for 2 dimensions"),
        (np.zeros((0, 2)), "data: there are no rows"),
        (np.zeros((50, 3)), r"data: an array of shape \(50, 3\); expected \[N, 2\]"),
        (np.zeros(50), r"data: an array of shape \(50,\); expected \[N, 2\]"),
        (np.array([["a", "b"]]), "data: an array of dtype <U1; expected real numbers"),
    ],
)
def test_rows_that_cannot_be_trained_on(rows, message):
    with pytest.raises(DataError, match=message):
        fit(make_flow(2), rows)


def test_a_column_that_varies_only_among_the_rows_held_out():
    rows = curved(100)
    rows[:, 1] = 0
    rows[split_rows(100, validation=0.1, test=0.0, seed=0).validation[0], 1] = 1
    with pytest.raises(DataError, match="the training rows: column '1' has one value, 0, in all 90 rows"):
        fit(make_flow(2), rows)


def test_contexts_must_fit_the_flow():
    rows, context = curved(50), np.arange(50.0).reshape(-1, 1)
    with pytest.raises(DataError, match="context: was given, but the flow takes none"):
        fit(make_flow(2), rows, context=context)
    conditional = make_flow(2, context_shape=(1,))
    with pytest.raises(DataError, match=r"context: is missing; the flow needs one of shape \(1,\)"):
        fit(conditional, rows)
    with pytest.raises(DataError, match="context: 40 contexts for 50 rows"):
        fit(conditional, rows, context=context[:40])
    with pytest.raises(DataError, match="validation_context: is missing"):
        fit(conditional, rows, context=context, validation=rows)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_epochs": 0}, "max_epochs=0; expected at least 1"),
        ({"patience": 0}, "patience=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0; expected a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, message):
    with pytest.raises(TrainingError, match=message):
        fit(make_flow(2), curved(50), **setting)


def test_a_validation_fraction_out_of_range():
    with pytest.raises(DataError, match=r"validation=1\.5; expected a fraction between 0 and 1"):
        fit(make_flow(2), curved(50), validation=1.5)


def test_a_flow_without_parameters_cannot_be_trained():
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(TrainingError, match="no parameters to train"):
        fit(dist.Flow(base, bij.Standardize()), curved(50))


def test_single_steps_that_are_not_finite_are_skipped_and_counted_and_many_end_training():
    flow = make_flow(2)
    exact = flow.log_prob
    calls = {"count": 0}

    def sometimes_nan(rows, context=None):
        answer = exact(rows, context)
        if not torch.is_grad_enabled():
            return answer
        calls["count"] += 1
        return answer * math.nan if calls["count"] % every == 0 else answer

    flow.log_prob = sometimes_nan
    every = 3
    result = fit(flow, curved(640), batch_size=64, max_epochs=2)
    assert result.skipped_steps == 18 // 3
    assert all(math.isfinite(epoch.validation_nll) for epoch in result.history)
    every = 1
    with pytest.raises(TrainingError, match=r"20 steps in a row had no finite gradient .* lower learning_rate"):
        fit(flow, curved(640), batch_size=64, max_epochs=20)
    assert all(torch.isfinite(parameter).all() for parameter in flow.parameters())
