"""The model card: plan and base in words, calls that fit the model."""

from __future__ import annotations

import pytest
import torch
from bases import BASES, base
from flows import normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.report.card import base_words, plan_lines
from flowmodel.training.recipe import default_plan


def test_a_plan_is_a_line_for_each_part_without_its_defaults():
    supports = (bij.Real(), bij.Positive(), bij.Positive())
    lines = plan_lines(default_plan(2, (32, 32), supports))
    layer, nearest = (
        f"Invert(AffineAutoregressive(params_fn=DenseAutoregressive((32, 32), nonlinearity='tanh'{skip})))"
        for skip in ("", ", skip_connections='fitted'")
    )
    assert lines == [layer, "Permute()", nearest, "Standardize()", "Supports(1 Real, 2 Positive)"]


def test_a_nested_plan_is_flat_and_a_long_permutation_short():
    plan = bij.Compose([bij.Compose([bij.Permute(tuple(range(50))), bij.Tanh()]), bij.AffineFixed(loc=2.0)])
    lines = plan_lines(plan)
    assert lines == ["Permute((0, 1, 2, 3, 4, 5, 6, 7, … 50 in all))", "Tanh()", "AffineFixed(2)"]


def test_lines_of_a_plan_without_omissions_are_python_that_makes_it():
    plan = bij.Invert(bij.SplineAutoregressive(params.DenseAutoregressive((24,)), bound=4.0))
    names = vars(bij) | vars(params)
    assert eval(plan_lines(plan)[0], dict(names)) == plan


@pytest.mark.parametrize("name", BASES)
def test_every_base_is_put_into_words(name):
    words = base_words(dist.Flow(base(name, (4,)), bij.AffineFixed()))
    assert "over 4 dimensions: " in words


def test_a_base_of_no_known_family_has_its_name():
    gumbel = torch.distributions.Independent(torch.distributions.Gumbel(torch.zeros(1), torch.ones(1)), 1)
    assert base_words(dist.Flow(gumbel, bij.AffineFixed())) == "Independent over 1 dimension"
    assert base_words(dist.Flow(normal((2,)), bij.AffineFixed())) == "Normal over 2 dimensions: loc 0, scale 1"
