"""The default flow: repeatable, standardising, and refusing what makes no flow."""

from __future__ import annotations

import pytest
import torch

import flowmodel.bijectors as bij
from flowmodel.errors import PlanError
from flowmodel.training.recipe import default_flow, default_plan


def test_the_plan_ends_with_standardisation_and_permutes_between_layers():
    kinds = [type(part) for part in default_plan(3).bijectors]
    assert kinds == [bij.Invert, bij.Permute, bij.Invert, bij.Permute, bij.Invert, bij.Standardize]


def test_two_fifths_of_the_layers_are_splines_next_to_the_data():
    layers = [part.bijector for part in default_plan(5).bijectors if isinstance(part, bij.Invert)]
    assert [type(layer) for layer in layers] == [bij.AffineAutoregressive] * 3 + [bij.SplineAutoregressive] * 2


def test_a_seed_decides_weights_and_permutations_and_nothing_else():
    before = torch.random.get_rng_state()
    first, again, other = (default_flow(6, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_no_layer_is_no_flow():
    with pytest.raises(PlanError, match="layers=0 given; expected at least 1"):
        default_plan(0)
