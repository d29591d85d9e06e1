"""The flow as a citizen of torch: a distribution and a module."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flows import PLANS, contexts, normal, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.errors import DataError, DtypeMismatchError, PlanError, ShapeMismatchError

ROOT = Path(__file__).parents[3]


def test_the_first_flow_learns_its_target():
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples/first_flow.py")], capture_output=True, text=True, check=True
    )
    gap = float(run.stdout.split("log q(y):")[1].split()[0])
    assert abs(gap) < 0.01, run.stdout


def test_is_a_distribution_and_a_module():
    flow = dist.Flow(normal((3,)), bij.AffineAutoregressive())
    assert isinstance(flow, torch.distributions.Distribution)
    assert isinstance(flow, torch.nn.Module)
    assert flow.event_shape == (3,)
    assert flow.batch_shape == ()
    assert flow.has_rsample
    assert bool(flow.support.check(torch.zeros(3)))
    assert "AffineAutoregressive" in repr(flow)


@pytest.mark.parametrize("event_shape", [(2,), (2, 3)])
@pytest.mark.parametrize("sample_shape", [(), (4,), (4, 5)])
def test_shapes(event_shape, sample_shape):
    flow = trained_flow(PLANS["stack"], event_shape)
    y = flow.sample(sample_shape)
    assert y.shape == sample_shape + event_shape
    assert flow.log_prob(y).shape == sample_shape
    assert not y.requires_grad
    assert flow.rsample(sample_shape).requires_grad


def test_a_batch_of_bases():
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(4, 2), torch.ones(4, 2)), 1)
    flow = dist.Flow(base, bij.AffineAutoregressive())
    y = flow.sample((7,))
    assert y.shape == (7, 4, 2)
    torch.testing.assert_close(flow.log_prob(y), base.log_prob(y))


def test_one_context_for_each_value_or_one_for_all():
    flow = trained_flow(PLANS["stack"], (3,), (2,))
    y, context = torch.randn(5, 3, dtype=torch.float64), contexts(5, (2,), torch.float64)
    each = flow.log_prob(y, context)
    alone = torch.stack([flow.log_prob(y[i], context[i]) for i in range(5)])
    torch.testing.assert_close(each, alone, rtol=1e-12, atol=1e-12)
    assert flow.log_prob(y, context[0]).shape == (5,)
    assert flow.sample((5,), context).shape == (5, 3)
    # The context matters to every dimension, the first included.
    jacobian = torch.autograd.functional.jacobian(lambda c: flow.bijector(y, c), context)
    assert bool((jacobian[0, :, 0] != 0).any(1).all())


@torch.no_grad()
def test_samples_follow_the_density():
    flow = trained_flow(PLANS["stack"], (2,))
    y = flow.sample((200_000,))
    entropy_of_samples = -flow.log_prob(y).mean()
    # E_q[p / q] = 1 for any density p: here a normal of half the spread of q, which keeps the weights bounded.
    proposal = torch.distributions.Independent(torch.distributions.Normal(y.mean(0), y.std(0) / 2), 1)
    weights = (proposal.log_prob(y) - flow.log_prob(y)).exp()
    standard_error = float(weights.std()) / len(y) ** 0.5
    assert abs(float(weights.mean()) - 1) < 6 * standard_error
    assert torch.isfinite(entropy_of_samples)


def test_to_moves_everything_and_preprocessing_keeps_its_precision():
    flow = trained_flow(PLANS["preprocessed"], (3,), dtype=torch.float32).float()
    double = copy.deepcopy(flow).double()
    y = 3 * torch.randn(20, 3, dtype=torch.float64) + 10
    assert double.log_prob(y).dtype == torch.float64
    assert flow.log_prob(y).dtype == torch.float32
    torch.testing.assert_close(double.log_prob(y).float(), flow.log_prob(y), rtol=1e-4, atol=1e-4)
    standardize = flow.bijector.chain[-1]
    assert standardize.location.dtype == torch.float64


def test_a_large_offset_does_not_cost_precision():
    torch.manual_seed(0)
    rows = 1.7e9 + torch.randn(500, 2, dtype=torch.float64)
    flow = dist.Flow(normal((2,), torch.float32), bij.Compose([bij.AffineAutoregressive(), bij.Standardize()]))
    flow.standardize_(rows)
    closed = torch.distributions.Independent(
        torch.distributions.Normal(rows.mean(0), rows.std(0, correction=0)), 1
    ).log_prob(rows)
    # float32 alone would round each value to a multiple of 128.
    torch.testing.assert_close(flow.log_prob(rows).double(), closed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_dict_and_deepcopy_hold_the_whole_model(dtype):
    flow = trained_flow(PLANS["preprocessed"], (4,), (3,), dtype)
    y, context = torch.randn(6, 4, dtype=torch.float64), contexts(6, (3,), torch.float64)
    fresh = dist.Flow(dist.base_from_json(flow.base_to_json()), flow.plan, context_shape=(3,))
    fresh.load_state_dict(flow.state_dict())
    assert torch.equal(fresh.log_prob(y, context), flow.log_prob(y, context))
    assert torch.equal(copy.deepcopy(flow).log_prob(y, context), flow.log_prob(y, context))


@pytest.mark.parametrize(
    "base",
    [
        torch.distributions.Normal(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])),
        torch.distributions.Laplace(torch.zeros(2), torch.ones(2)),
        torch.distributions.StudentT(torch.tensor([3.0, 4.0]), torch.zeros(2), torch.ones(2)),
        torch.distributions.Uniform(torch.zeros(2) - 3, torch.ones(2)),
    ],
    ids=lambda base: type(base).__name__,
)
def test_bases_are_written_and_read(base):
    flow = dist.Flow(torch.distributions.Independent(base, 1), bij.Affine())
    again = dist.base_from_json(flow.base_to_json())
    x = base.sample((5,))
    torch.testing.assert_close(again.log_prob(x), base.log_prob(x).sum(-1))
    assert flow.double().log_prob(x.double()).dtype == torch.float64


def test_an_unknown_base_is_refused_by_name():
    with pytest.raises(PlanError, match="unknown base distribution 'Cauchy'; expected one of Normal"):
        dist.base_from_json({"family": "Cauchy", "parameters": {}})


def test_training_through_the_inverse_reaches_every_parameter():
    flow = dist.Flow(normal((4,), torch.float32), PLANS["stack"], context_shape=(2,))
    before = {name: value.detach().clone() for name, value in flow.named_parameters()}
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss = -flow.log_prob(torch.randn(64, 4) * 2 + 1, torch.randn(64, 2)).mean()
        loss.backward()
        optimizer.step()
    unmoved = [name for name, value in flow.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda f: f.log_prob(torch.zeros(5, 2)), ShapeMismatchError, r"value of shape \(5, 2\) given.*end in \(3,\)"),
        (lambda f: f.log_prob(torch.zeros(5, 3), torch.zeros(5, 1)), ShapeMismatchError, "built without one"),
        (lambda f: f.log_prob(torch.zeros(5, 3).double()), DtypeMismatchError, "float64 on cpu given.*float32"),
        (lambda f: f.standardize_(torch.ones(5, 3)), DataError, r"hold one value only \(1\)"),
        (lambda f: f.standardize_(torch.ones(1, 3)), DataError, r"from 1 row\(s\)"),
    ],
)
def test_mistakes_with_tensors_say_what_was_expected(call, error, text):
    plan = bij.Compose([bij.AffineAutoregressive(params.DenseAutoregressive((8, 8))), bij.Affine()])
    standardizing = bij.Compose([plan, bij.Standardize()])
    flow = dist.Flow(normal((3,), torch.float32), standardizing if error is DataError else plan)
    with pytest.raises(error, match=text):
        call(flow)


def test_mistakes_with_contexts_say_what_was_expected():
    flow = dist.Flow(normal((3,), torch.float32), bij.AffineAutoregressive(), context_shape=(2,))
    with pytest.raises(ShapeMismatchError, match=r"no context given; expected one of shape \[\.\.\., 2\]"):
        flow.log_prob(torch.zeros(5, 3))
    with pytest.raises(ShapeMismatchError, match=r"context of shape \(5, 3\) given; expected it to end in \(2,\)"):
        flow.log_prob(torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ShapeMismatchError, match=r"value has leading shape \(5,\) and context \(4,\)"):
        flow.log_prob(torch.zeros(5, 3), torch.zeros(4, 2))
    with pytest.raises(ShapeMismatchError, match="no context given for 5 rows"):
        flow.standardize_(torch.randn(5, 3))
