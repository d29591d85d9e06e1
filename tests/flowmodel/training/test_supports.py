"""Training with supports: rows outside refused by name, whole numbers spread by the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowmodel.bijectors as bij
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
