"""Plans: printed, compared, written as JSON, and refused with a helpful text at the moment the mistake is made."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from flows import PLANS, normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.errors import PlanError, ShapeMismatchError
from flowmodel.plans import plan_from_json


@pytest.mark.parametrize("name", list(PLANS))
def test_json_round_trip_and_repr(name):
    plan = PLANS[name]
    again = plan_from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert hash(again) == hash(plan)
    names = {**vars(bij), **vars(params)}
    assert eval(repr(plan), {"__builtins__": {}}, names) == plan


@pytest.mark.parametrize("name", list(PLANS))
def test_one_plan_builds_many_modules_with_their_own_parameters(name):
    plan = copy.deepcopy(PLANS[name])
    one, other = plan(shape=torch.Size([4])), plan.build(torch.Size([7]))
    assert one.event_shape == (4,)
    assert other.event_shape == (7,)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    assert plan == PLANS[name]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: params.DenseAutoregressive(hidden_dims=()), r"hidden_dims=\(\) given; expected one or more"),
        (lambda: params.DenseAutoregressive(hidden_dims=(8, 0)), r"hidden_dims=\(8, 0\) given"),
        (lambda: params.DenseAutoregressive(nonlinearity="relux"), "nonlinearity='relux' given; expected one of relu"),
        (lambda: params.DenseAutoregressive(permutation=(0, 2)), "expected each whole number from 0 to 1 once"),
        (lambda: bij.Permute((1, 1)), r"Permute: permutation=\(1, 1\) given"),
        (lambda: bij.AffineAutoregressive(params.Tensor()), "expected a plan such as params.DenseAutoregressive"),
        (lambda: bij.AffineAutoregressive(scale_fn="cosh"), "scale_fn='cosh' given; expected one of bounded, softplus"),
        (lambda: bij.Affine(params.DenseAutoregressive()), r"expected a plan such as params.Tensor\(\)"),
        (lambda: bij.Compose([]), "no bijectors given"),
        (lambda: bij.Compose([bij.Permute(), 3]), r"bijectors\[1\]: 3 given; expected the plan of a bijector"),
        (lambda: bij.Invert(torch.nn.Linear(2, 2)), "Invert: .* given; expected the plan of a bijector"),
        (lambda: plan_from_json({"plan": "Telepathy"}), "unknown plan 'Telepathy': expected one of .*Compose"),
        (lambda: plan_from_json({"plan": "Permute", "order": 1}), r"Permute has no field \['order'\]"),
        (lambda: dist.Flow(normal((2,)), torch.nn.Linear(2, 2)), "Flow: .* given; expected the plan of a bijector"),
    ],
)
def test_a_wrong_value_is_refused_when_the_plan_is_made(make, text):
    with pytest.raises(PlanError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: dist.Flow(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), bij.AffineAutoregressive()),
            r"event shape \(\) given.*torch.distributions.Independent\(base, 1\)",
        ),
        (
            lambda: dist.Flow(normal((9,)), bij.AffineAutoregressive(params.DenseAutoregressive((16, 8)))),
            r"hidden_dims\[1\]=8 units cannot carry the 9 degrees.*Give at least 9",
        ),
        (
            lambda: dist.Flow(normal((3,)), bij.Compose([bij.Affine(), bij.Permute((1, 0))])),
            r"Compose: bijectors\[1\]: Permute: permutation of 2 places given for an event of shape \(3,\)",
        ),
        (
            lambda: dist.Flow(normal((3,)), bij.AffineAutoregressive(params.DenseAutoregressive(permutation=(1, 0)))),
            "permutation of 2 places given for an event of 3 dimensions",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_when_the_flow_is_made(make, text):
    with pytest.raises(ShapeMismatchError, match=text):
        make()


def test_permute_without_a_permutation_is_drawn_once_and_saved():
    flow = dist.Flow(normal((6,)), bij.Permute())
    other = dist.Flow(normal((6,)), bij.Permute())
    other.load_state_dict(flow.state_dict())
    x = torch.randn(3, 6, dtype=torch.float64)
    assert torch.equal(flow.bijector.forward(x), other.bijector.forward(x))
    assert torch.equal(bij.Permute()(shape=torch.Size([2]))(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 1.0]))
