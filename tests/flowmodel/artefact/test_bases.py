"""Every base distribution through the whole artefact: published, scored and sampled, and loaded to go on with.

Annotations are not postponed here: TorchScript reads those of a class.
"""

import numpy as np
import pytest
import torch
from bases import BASES, base

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.runtime.noise import Draw, standard_normal
from flowmodel.runtime.scoring import Scorer

LAYER = bij.AffineAutoregressive(params.DenseAutoregressive((16, 16)))
PLAN = bij.Compose([bij.Invert(LAYER), bij.Permute((2, 0, 1)), bij.Standardize()])


def flow_on(name: str, dtype: torch.dtype, context_shape: tuple[int, ...] | None = None) -> dist.Flow:
    flow = dist.Flow(base(name, (3,), dtype), PLAN, context_shape=context_shape)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    context = None if context_shape is None else torch.randn(50, *context_shape, dtype=torch.float64)
    flow.standardize_(5 * torch.randn(50, 3, dtype=torch.float64) + 10, context)
    return flow


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BASES)
def test_a_published_base_answers_as_the_flow_does(name, dtype, tmp_path):
    flow = flow_on(name, dtype)
    published = flowmodel.publish(flow, tmp_path, "wine")
    scorer = Scorer.load(published.scorer_path)
    samples, log_prob = scorer.sample([Draw(seed=4, start=10, count=300)])
    rows = torch.from_numpy(samples.astype(np.float64))
    # A rounding of float32 in a sample is one of log_prob times the density's slope.
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    with torch.no_grad():
        expected = flow.log_prob(rows).double().numpy()
        np.testing.assert_allclose(scorer.log_prob(samples), expected, rtol=tolerance, atol=tolerance)
        inside = np.isfinite(expected)
        # The edge of a Uniform may be rounded over in float32.
        assert inside.mean() > 0.99 if name == "uniform" and dtype == torch.float32 else inside.all()
        np.testing.assert_allclose(log_prob[inside], expected[inside], rtol=tolerance, atol=tolerance)
        again = flowmodel.load(published.path)
        assert torch.equal(again.log_prob(rows), flow.log_prob(rows))
        assert again.sample((5,)).dtype == dtype
    assert published.manifest.base == again.base_to_json()


@pytest.mark.parametrize("name", BASES)
def test_the_bits_of_a_base_do_not_depend_on_the_batch(name, tmp_path):
    path = flowmodel.export_scorer(flow_on(name, torch.float32, (2,)), tmp_path / "s.pt")
    scorer = Scorer.load(path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        contexts = standard_normal(5, 0, 500, 2)
        samples, log_prob = scorer.sample([Draw(seed=1, start=0, count=500)], contexts)
        scored = scorer.log_prob(samples, contexts)
        for start, stop in [(0, 1), (3, 4), (7, 40), (100, 357), (499, 500)]:
            part, part_log_prob = scorer.sample([Draw(1, start, stop - start)], contexts[start:stop])
            np.testing.assert_array_equal(part, samples[start:stop])
            np.testing.assert_array_equal(part_log_prob, log_prob[start:stop])
            np.testing.assert_array_equal(scorer.log_prob(part, contexts[start:stop]), scored[start:stop])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", BASES)
def test_a_scorer_says_how_much_noise_a_sample_takes(name, tmp_path):
    scorer = Scorer.load(flowmodel.export_scorer(flow_on(name, torch.float32), tmp_path / "s.pt"))
    expected = {"student-t": 6, "mixture": 4, "mixture-logits": 4, "block-mixture": 4, "elementwise-mixture": 6}
    assert scorer.noise_size == expected.get(name, 3)


def test_a_scorer_of_before_takes_a_number_for_each_dimension(tmp_path):
    class Older(torch.nn.Module):
        """What was exported before ``noise_size``."""

        event_size: int
        context_size: int
        feature_names: list[str]
        context_names: list[str]

        def __init__(self) -> None:
            super().__init__()
            self.event_size, self.context_size = 3, 0
            self.feature_names, self.context_names = ["a", "b", "c"], []

        @torch.jit.export
        def log_prob(self, rows: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
            return rows.sum(1)

        @torch.jit.export
        def sample(self, noise: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            return noise, noise.sum(1)

    torch.jit.save(torch.jit.script(Older()), str(tmp_path / "s.pt"))
    scorer = Scorer.load(tmp_path / "s.pt")
    assert scorer.noise_size == 3
    # Native noise differs from numpy's by roundings.
    np.testing.assert_allclose(scorer.sample([Draw(8, 0, 5)])[0], standard_normal(8, 0, 5, 3), rtol=1e-14, atol=1e-15)


def test_a_seed_of_a_normal_model_draws_what_it_always_drew(tmp_path):
    zeros, ones = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    flow = dist.Flow(torch.distributions.Independent(torch.distributions.Normal(zeros, ones), 1), bij.Affine())
    scorer = Scorer.load(flowmodel.export_scorer(flow, tmp_path / "s.pt"))
    drawn, _ = scorer.sample([Draw(seed=3, start=7, count=20)])
    np.testing.assert_allclose(drawn, standard_normal(3, 7, 20, 2), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", BASES)
def test_training_goes_on_from_an_artefact(name, tmp_path):
    torch.manual_seed(0)
    rows = torch.randn(400, 3, dtype=torch.float64) @ torch.tensor([[1.0, 0.9, 0.0], [0, 0.5, 0.2], [0, 0, 2]]).double()
    # A Uniform scores what falls outside of it with -inf, so it is given room for all of the data.
    wide = torch.distributions.Uniform(torch.full((3,), -50.0), torch.full((3,), 50.0))
    given = torch.distributions.Independent(wide, 1) if name == "uniform" else base(name, (3,), torch.float32)
    flow = dist.Flow(given, PLAN)
    flowmodel.fit(flow, rows, max_epochs=2, seed=0)
    published = flowmodel.publish(flow, tmp_path, "wine", rows=rows)
    again = flowmodel.load(published.path)
    with torch.no_grad():
        before = float(again.log_prob(rows).mean())
    flowmodel.fit(again, rows, max_epochs=5, seed=1)
    with torch.no_grad():
        after = float(again.log_prob(rows).mean())
    assert after > before
    assert torch.equal(flow.log_prob(rows[:5]), flowmodel.load(published.path).log_prob(rows[:5]))
    assert flowmodel.publish(again, tmp_path, "wine", rows=rows).version == 2
