"""The exported scorer equals the eager flow, loads in a bare torch, and refuses what it cannot hold."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from flows import CONTEXT_SHAPES, EVENT_SHAPES, PLANS, contexts, normal, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.artefact.scorer import export_scorer
from flowmodel.errors import ExportError


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
@pytest.mark.parametrize("name", list(PLANS))
@torch.no_grad()
def test_scorer_equals_the_flow(name, event_shape, context_shape, tmp_path):
    flow = trained_flow(PLANS[name], event_shape, context_shape)
    scorer = torch.jit.load(str(export_scorer(flow, tmp_path / "scorer.pt")))
    context = contexts(30, context_shape, torch.float64)
    flat_context = None if context is None else context.reshape(30, -1)
    noise = torch.randn(30, *event_shape, dtype=torch.float64)
    rows = flow.bijector.forward(noise, None if context is None else flow.standard_context(context))
    samples, log_prob = scorer.sample(noise.reshape(30, -1), flat_context)
    torch.testing.assert_close(samples, rows.reshape(30, -1), rtol=1e-10, atol=1e-10)
    expected = flow.log_prob(rows, context)
    torch.testing.assert_close(log_prob, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scorer.log_prob(rows.reshape(30, -1), flat_context), expected, rtol=1e-9, atol=1e-9)


def test_scorer_describes_itself_and_needs_no_class_of_ours(tmp_path):
    flow = trained_flow(PLANS["preprocessed"], (2,), (1,), torch.float32)
    path = export_scorer(flow, tmp_path / "scorer.pt", feature_names=["height", "weight"], context_names=["age"])
    program = (
        "import sys, warnings; warnings.simplefilter('ignore'); import torch; m = torch.jit.load(sys.argv[1]); "
        "print(m.event_size, m.context_size, m.feature_names, m.context_names, "
        "m.log_prob(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 1)).dtype); "
        "print(any(name.split('.')[0] == 'flowmodel' for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["2 1 ['height', 'weight'] ['age'] torch.float32", "False"]


@pytest.mark.parametrize("name", list(PLANS))
def test_answers_come_in_the_dtype_of_the_model(name, tmp_path):
    flow = trained_flow(PLANS[name], (3,), (2,), torch.float32)
    scorer = torch.jit.load(str(export_scorer(flow, tmp_path / "s.pt")))
    rows, context = torch.randn(5, 3) + 10, contexts(5, (2,), torch.float32)
    with torch.no_grad():
        answers = [scorer.log_prob(rows.to(dtype), context.to(dtype)) for dtype in (torch.float32, torch.float64)]
        samples = [scorer.sample(rows.to(dtype), context) for dtype in (torch.float32, torch.float64)]
    assert torch.equal(*answers)
    assert torch.equal(samples[0][0], samples[1][0])
    assert {tensor.dtype for tensor in [*answers, *samples[0], *samples[1]]} == {torch.float32}


def test_base_location_and_scale_are_part_of_the_scorer(tmp_path):
    base = torch.distributions.Independent(
        torch.distributions.Normal(torch.tensor([5.0, -3.0]), torch.tensor([2.0, 0.5])), 1
    )
    scorer = torch.jit.load(str(export_scorer(dist.Flow(base, bij.Permute((0, 1))), tmp_path / "s.pt")))
    rows, log_prob = scorer.sample(torch.tensor([[1.0, 2.0]]), None)
    torch.testing.assert_close(rows, torch.tensor([[7.0, -2.0]]))
    torch.testing.assert_close(log_prob, base.log_prob(rows))


def test_export_copies_the_weights(tmp_path):
    flow = trained_flow(PLANS["stack"], (3,))
    rows = torch.randn(4, 3, dtype=torch.float64)
    scorer = torch.jit.load(str(export_scorer(flow, tmp_path / "s.pt")))
    before = scorer.log_prob(rows, None)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    assert torch.equal(scorer.log_prob(rows, None), before)


def test_what_cannot_be_exported_is_refused_by_name(tmp_path):
    laplace = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ExportError, match=r"base distribution Laplace .*cannot be exported"):
        export_scorer(dist.Flow(laplace, bij.Affine()), tmp_path / "s.pt")
    mixture = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(ExportError, match="base distribution MultivariateNormal"):
        export_scorer(dist.Flow(mixture, bij.Affine()), tmp_path / "s.pt")
    with pytest.raises(ExportError, match=r"feature_names=\['a', 'a'\] given; expected 2 different names"):
        export_scorer(dist.Flow(normal((2,)), bij.Affine()), tmp_path / "s.pt", feature_names=["a", "a"])


@pytest.mark.parametrize(
    ("rows", "context", "text"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 1), r"rows of shape \[3, 2\] given; expected \[N, 3\]"),
        (torch.zeros(3, 3), None, r"no context given; expected \[N, 1\]"),
        (torch.zeros(3, 3), torch.zeros(2, 1), r"context of shape \[2, 1\] given"),
    ],
)
def test_the_bare_scorer_checks_its_shapes(rows, context, text, tmp_path):
    flow = trained_flow(PLANS["autoregressive-exp"], (3,), (1,), torch.float32)
    scorer = torch.jit.load(str(export_scorer(flow, tmp_path / "s.pt")))
    with pytest.raises(torch.jit.Error, match=text):
        scorer.log_prob(rows, context)
