"""Training with supports: rows outside refused by name, whole numbers spread by the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flows import normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.errors import DataError
from flowmodel.training import fit
from flowmodel.training.recipe import default_flow, default_plan

COUNTS = np.random.default_rng(0).poisson(4, (300, 1)).astype(float)


def trained(seed):
    flow = default_flow(1, layers=1, hidden=(8,), supports=(bij.Integer(0),))
    fit(flow, COUNTS, max_epochs=2, seed=seed)
    return flow.state_dict()


def test_the_plan_ends_with_supports_only_where_some_column_is_not_real():
    assert default_plan(1, supports=(bij.Real(), bij.Real())) == default_plan(1)
    assert default_plan(1, supports=(bij.Real(), bij.Positive())).bijectors[-1] == bij.Supports(
        (bij.Real(), bij.Positive())
    )


def test_whole_numbers_are_spread_by_the_seed_alone():
    before = torch.random.get_rng_state()
    first, again = trained(1), trained(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    location = next(value for name, value in first.items() if name.endswith(".location") and value.numel())
    # Of the logarithms of spread rows, not of the whole numbers themselves.
    assert not bool(torch.isclose(location, torch.from_numpy(np.log(COUNTS + 0.5)).mean(), rtol=1e-6).any())


@pytest.mark.parametrize("value", [-1.0, 2.5])
def test_a_row_outside_is_refused_by_name(value):
    flow = default_flow(1, layers=1, hidden=(8,), supports=(bij.Integer(0),))
    rows = np.append(COUNTS, [[value]], 0)
    with pytest.raises(
        DataError, match=f"the (training|validation) rows: row .*found {value:g}, expected whole numbers"
    ):
        fit(flow, rows, max_epochs=1)


@pytest.mark.parametrize(("mean", "least", "most"), [(1.0, 1.05, 1.15), (5.0, 0.995, 1.005)])
def test_low_counts_sum_to_more_than_one_by_their_midpoints_and_to_one_by_their_cells(mean, least, most):
    rows = torch.poisson(torch.full((4000, 1), mean, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    plan = bij.Compose([bij.Affine(), bij.Standardize(), bij.Supports(bij.Integer(0))])
    flow = dist.Flow(normal((1,), torch.float32), plan)
    fit(flow, rows, max_epochs=15)
    whole = torch.arange(60, dtype=torch.float64)[:, None]
    steps = 400
    within = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps - 0.5
    with torch.no_grad():
        midpoints = float(flow.log_prob(whole).double().exp().sum())
        cells = float(flow.log_prob(whole[:, None] + within[:, None]).double().exp().mean(1).sum())
    assert abs(cells - 1) < 1e-3
    # As bij.Integer and docs/maths.md say.
    assert least < midpoints < most
