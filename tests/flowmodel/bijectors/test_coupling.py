"""Coupling layers: what stays, what steers, and what is refused."""

from __future__ import annotations

import pytest
import torch
from flows import contexts, normal, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.errors import DtypeMismatchError, PlanError, ShapeMismatchError


@pytest.mark.parametrize("context_shape", [None, (2,)])
@pytest.mark.parametrize(("split", "kept"), [(None, 2), (1, 1), (4, 4)])
@pytest.mark.parametrize("plan_class", [bij.AffineCoupling, bij.SplineCoupling])
def test_what_stays_stays_and_steers_every_other_dimension(plan_class, split, kept, context_shape):
    flow = trained_flow(plan_class(params.Dense((24,)), split), (5,), context_shape)
    context = contexts(1, context_shape, torch.float64)
    x = 0.7 * torch.randn(1, 5, dtype=torch.float64)
    for direction in (flow.bijector.forward, flow.bijector.inverse):
        assert torch.equal(direction(x, context)[:, :kept], x[:, :kept])
        jacobian = torch.autograd.functional.jacobian(lambda v, d=direction: d(v, context)[0], x)[:, 0]
        wanted = torch.eye(5, dtype=torch.bool)
        wanted[kept:, :kept] = True
        assert torch.equal(jacobian != 0, wanted)


@pytest.mark.parametrize("plan_class", [bij.AffineCoupling, bij.SplineCoupling])
def test_a_single_dimension_is_steered_by_the_context_alone(plan_class):
    flow = trained_flow(plan_class(), (1,), (2,))
    context = contexts(2, (2,), torch.float64)
    x = torch.full((2, 1), 0.4, dtype=torch.float64)
    y = flow.bijector.forward(x, context)
    assert bool((y[0] - y[1]).abs() > 1e-3)
    torch.testing.assert_close(flow.bijector.inverse(y, context), x, rtol=1e-9, atol=1e-9)


def test_a_value_of_another_dtype_is_refused():
    bijector = bij.AffineCoupling()(shape=torch.Size([2]))
    with pytest.raises(DtypeMismatchError, match=r"torch.float64 on cpu given, its parameters are torch.float32"):
        bijector.forward(torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: bij.AffineCoupling(params.DenseAutoregressive()),
            PlanError,
            r"AffineCoupling: .*such as params.Dense\(",
        ),
        (
            lambda: bij.SplineCoupling(split=0),
            PlanError,
            "SplineCoupling: split=0 given; expected a whole number above 0",
        ),
        (lambda: bij.SplineCoupling(split=1.5), PlanError, "split=1.5 given"),
        (lambda: params.Dense(()), PlanError, r"Dense: hidden_dims=\(\) given; expected one or more"),
        (
            lambda: params.Dense(nonlinearity="gelu"),
            PlanError,
            "Dense: nonlinearity='gelu' given; expected one of relu",
        ),
        (lambda: params.Dense().build(3, 0, 2, split=3), ShapeMismatchError, "split=3 given for an event of 3 dim"),
        (
            lambda: dist.Flow(normal((3,)), bij.AffineCoupling(split=3)),
            ShapeMismatchError,
            "split=3 given for an event of 3 dimensions, which leaves none to transform; give at most 2",
        ),
        (
            lambda: dist.Flow(normal((1,)), bij.AffineCoupling(split=1)),
            ShapeMismatchError,
            "event of one dimension, which leaves none to transform; leave split=None",
        ),
        (lambda: bij.AffineCoupling()(shape=torch.Size([])), ShapeMismatchError, r"event shape \(\) given"),
    ],
)
def test_what_cannot_be_built_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()
