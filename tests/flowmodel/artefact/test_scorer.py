"""The exported scorer equals the eager flow, loads in a bare torch, and refuses what it cannot hold."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from flows import CASES, PLANS, READING, contexts, normal, trained_flow

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.artefact.scorer import export_scorer
from flowmodel.errors import ExportError
from flowmodel.runtime.noise import Draw
from flowmodel.runtime.scoring import Scorer


@pytest.mark.parametrize(("name", "event_shape", "context_shape"), CASES)
@torch.no_grad()
def test_scorer_equals_the_flow(name, event_shape, context_shape, tmp_path):
    flow = trained_flow(PLANS[name], event_shape, context_shape)
    scorer = torch.jit.load(str(export_scorer(flow, tmp_path / "scorer.pt")))
    context = contexts(30, context_shape, torch.float64)
    flat_context = None if context is None else context.reshape(30, -1)
    noise = torch.randn(30, *event_shape, dtype=torch.float64)
    rows = flow.bijector.forward(noise, None if context is None else flow.standard_context(context))
    rows = flow.rounded(rows)
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
    context_shape = (2,) if name in READING else None
    flow = trained_flow(PLANS[name], (3,), context_shape, torch.float32)
    scorer = torch.jit.load(str(export_scorer(flow, tmp_path / "s.pt")))
    rows, context = torch.randn(5, 3) + 10, contexts(5, context_shape, torch.float32)
    with torch.no_grad():
        answers = [
            scorer.log_prob(rows.to(dtype), None if context is None else context.to(dtype))
            for dtype in (torch.float32, torch.float64)
        ]
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


class Tripled(bij.Bijector):
    """A bijector from outside this project, correct in eager mode."""

    def push(self, x, context):
        return 3 * x, torch.full((len(x),), self.event_size * math.log(3), dtype=x.dtype)

    def pull(self, y, context):
        return y / 3, -torch.full((len(y),), self.event_size * math.log(3), dtype=y.dtype)

    def fold(self):
        raise NotImplementedError


class FoldedInNumpy(bij.Folded):
    """A folded bijector that TorchScript cannot compile."""

    def push(self, x: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(x.numpy() * 3), x.sum(1)

    def pull(self, y: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(y.numpy() / 3), y.sum(1)


class TripledInNumpy(Tripled):
    def fold(self):
        return FoldedInNumpy()


@dataclasses.dataclass(frozen=True)
class PlanOf(bij.BijectorPlan):
    """The plan of one of the bijectors above."""

    name: str

    def build(self, event_shape, context_shape=None):
        return {"tripled": Tripled, "numpy": TripledInNumpy}[self.name](event_shape, context_shape)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tripled", r"bijector Tripled cannot be exported: its fold\(\) is not implemented; have it return a .*Folded"),
        ("numpy", r"bijector FoldedInNumpy cannot be exported: TorchScript refuses its push or pull"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_bijector_that_cannot_be_exported_is_refused_by_name(name, text, nested, tmp_path):
    plan = bij.Compose([bij.Affine(), bij.Invert(PlanOf(name))]) if nested else PlanOf(name)
    flow = dist.Flow(normal((2,)), plan)
    assert flow.log_prob(flow.sample((3,))).shape == (3,)
    with pytest.raises(ExportError, match=text):
        export_scorer(flow, tmp_path / "s.pt")
    with pytest.raises(ExportError, match=text):
        flowmodel.publish(flow, tmp_path / "store", "wine")
    assert not (tmp_path / "store").exists() or list((tmp_path / "store").iterdir()) == []


MIXTURE_OF_LAPLACE = torch.distributions.MixtureSameFamily(
    torch.distributions.Categorical(torch.ones(2)),
    torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2, 3), torch.ones(2, 3)), 1),
)


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (torch.distributions.Cauchy(torch.zeros(()), torch.ones(())), r"base distribution Cauchy cannot be exported"),
        (
            torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
            r"base distribution MultivariateNormal cannot be exported; use Normal, Laplace, StudentT or Uniform, or "
            r"MixtureSameFamily\(Categorical, Normal\), under Independent such that the batch shape is \(\)",
        ),
        (MIXTURE_OF_LAPLACE, r"base distribution MixtureSameFamily\(Categorical, Laplace\) cannot be exported"),
        (
            torch.distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3)),
            r"base distribution Normal with batch shape \(2, 3\) cannot be exported, for a model has one density; "
            r"wrap it in torch.distributions.Independent\(base, 2\)",
        ),
        (
            torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(4, 3), torch.ones(4, 3)), 1),
            r"base distribution Laplace with batch shape \(4,\) cannot be exported",
        ),
    ],
)
def test_a_base_that_cannot_be_exported_is_refused_by_name(base, text, tmp_path):
    flow = dist.Flow(base, bij.Affine())
    with pytest.raises(ExportError, match=text):
        export_scorer(flow, tmp_path / "s.pt")
    # Before anything is computed or written.
    with pytest.raises(ExportError, match=text):
        flowmodel.publish(flow, tmp_path / "store", "wine", rows=np.zeros((0, 7)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"feature_names": ["a", "a"]}, r"feature_names=\['a', 'a'\] given; expected 2 different names"),
        ({"feature_names": ["a", "b", "c"]}, r"feature_names=\['a', 'b', 'c'\] given; expected 2 different names"),
        ({"context_names": ["a"]}, r"context_names=\['a'\] given; expected 0 different names"),
    ],
)
def test_names_of_another_number_are_refused(names, text, tmp_path):
    with pytest.raises(ExportError, match=text):
        export_scorer(dist.Flow(normal((2,)), bij.Affine()), tmp_path / "s.pt", **names)


def test_a_conditioned_or_expanded_flow_is_refused_and_the_flow_itself_is_not(tmp_path):
    flow = dist.Flow(normal((2,)), bij.AffineAutoregressive(), context_shape=(3,))
    conditioned = flow.condition(torch.zeros(5, 3, dtype=torch.float64))
    for given, shape in (
        (conditioned, r"\(5,\)"),
        (flow.condition(torch.zeros(3)), r"\(\)"),
        (flow.expand((4,)), r"\(4,\)"),
    ):
        with pytest.raises(ExportError, match=rf"a flow of batch shape {shape}.*cannot be exported; export the flow"):
            export_scorer(given, tmp_path / "s.pt")
    export_scorer(flow, tmp_path / "s.pt")


class WholeNumbers(bij.Bijector):
    """Shifted noise whose second column counts as whole numbers."""

    def push(self, x, context):
        return x + 0.3, x.new_zeros(len(x))

    def pull(self, y, context):
        return y - 0.3, y.new_zeros(len(y))

    def integers(self):
        return torch.tensor([False, True, False])

    def fold(self):
        return FoldedWholeNumbers()


class FoldedWholeNumbers(bij.Folded):
    @torch.jit.export
    def push(self, x: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 0.3, torch.zeros_like(x[:, 0])

    @torch.jit.export
    def pull(self, y: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return y - 0.3, torch.zeros_like(y[:, 0])


@dataclasses.dataclass(frozen=True)
class WholeNumbersPlan(bij.BijectorPlan):
    def build(self, event_shape, context_shape=None):
        return WholeNumbers(event_shape, context_shape)


def test_columns_of_whole_numbers_are_rounded_and_scored_as_they_are_sent(tmp_path):
    flow = dist.Flow(normal((3,)), WholeNumbersPlan())
    published = flowmodel.publish(flow, tmp_path, "counts", rows=np.zeros((5, 3)))
    scorer = Scorer.load(published.scorer_path)
    samples, log_prob = scorer.sample([Draw(seed=1, start=0, count=200)])
    assert bool((samples[:, 1] == np.round(samples[:, 1])).all())
    assert not bool((samples[:, 0] == np.round(samples[:, 0])).any())
    assert set(samples[:, 1]) >= {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(log_prob, scorer.log_prob(samples))


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
