"""Base distributions: exact, written and read without loss, folded for export, sampled from given noise."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import scipy.stats
import torch
from bases import BASE_EVENT_SHAPES, BASES, base
from torch.distributions import (
    Categorical,
    Cauchy,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)

from flowmodel.distributions import base_from_json
from flowmodel.distributions.base import BaseDistribution
from flowmodel.errors import ExportError, PlanError
from flowmodel.runtime.noise import standard_normal

ROWS = 20_000


def noise_for(folded, count=ROWS, seed=11):
    return torch.from_numpy(standard_normal(seed, 0, count, folded.noise_size))


@pytest.mark.parametrize("event_shape", BASE_EVENT_SHAPES)
@pytest.mark.parametrize("name", BASES)
def test_log_prob_is_that_of_torch(name, event_shape):
    distribution = base(name, event_shape)
    module = BaseDistribution(distribution)
    x = 3 * torch.randn(200, *event_shape, dtype=torch.float64)
    expected = distribution.log_prob(x) if name != "uniform" else _validated_off(distribution).log_prob(x)
    # 1e-12: a dozen terms of size 10, each rounded to 1e-16 of itself, summed in another order.
    torch.testing.assert_close(module.log_prob(x), expected, rtol=1e-12, atol=1e-12)
    folded = module.fold()
    torch.testing.assert_close(folded.log_prob(x.reshape(200, -1)), expected, rtol=1e-12, atol=1e-12)
    script = torch.jit.script(_Scripted(folded))
    assert torch.equal(script.log_prob(x.reshape(200, -1)), folded.log_prob(x.reshape(200, -1)))
    assert torch.equal(script.from_noise(noise_for(folded, 50)), folded.from_noise(noise_for(folded, 50)))


@pytest.mark.parametrize("event_shape", BASE_EVENT_SHAPES)
@pytest.mark.parametrize("name", BASES)
def test_parameters_are_read_back_bit_for_bit(name, event_shape):
    for dtype in (torch.float32, torch.float64):
        module = BaseDistribution(base(name, event_shape, dtype))
        again = BaseDistribution(base_from_json(json.loads(json.dumps(module.to_json()))))
        assert (again.family, again.event_dims, again.component_dims) == (
            module.family,
            module.event_dims,
            module.component_dims,
        )
        for key, value in module.state_dict().items():
            written = again.state_dict()[key]
            assert written.dtype == dtype
            # Logarithms of weights are normalised on the way, which may move their last bit.
            tolerance = torch.finfo(dtype).eps * 4 if key == "logits" else 0
            torch.testing.assert_close(written, value, rtol=0, atol=tolerance)
        assert again.distribution().event_shape == torch.Size(event_shape)


@pytest.mark.parametrize("name", BASES)
def test_a_base_moves_is_saved_and_copied_as_a_module(name):
    module = BaseDistribution(base(name, (2, 3), torch.float32))
    assert {value.dtype for value in module.state_dict().values()} == {torch.float32}
    copied = copy.deepcopy(module).double()
    assert copied.distribution().sample((5,)).dtype == torch.float64
    assert copied.distribution().sample((5,)).shape == (5, 2, 3)
    next(copied.buffers()).fill_(1.0)
    assert not torch.equal(next(copied.buffers()).float(), next(module.buffers()))
    fresh = BaseDistribution(base(name, (2, 3), torch.float32))
    for value in fresh.buffers():
        value.fill_(1.0)
    fresh.load_state_dict(module.state_dict())
    x = module.distribution().sample((5,))
    assert torch.equal(fresh.log_prob(x), module.log_prob(x))
    assert {value.device.type for value in module.to("meta").buffers()} == {"meta"}


@pytest.mark.parametrize("name", BASES)
def test_draws_follow_the_distribution(name):
    module = BaseDistribution(base(name, (4,)))
    folded = module.fold()
    draws = folded.from_noise(noise_for(folded))
    assert draws.shape == (ROWS, 4)
    cdfs = _marginals(name, module)
    for column, cdf in enumerate(cdfs):
        assert scipy.stats.kstest(draws[:, column].numpy(), cdf).pvalue > 1e-3
    # Dimensions that are independent under the base are so in its draws; six standard errors of a rank correlation.
    if name not in ("mixture", "mixture-logits", "block-mixture"):
        correlation = scipy.stats.spearmanr(draws.numpy()).statistic
        assert np.abs(correlation - np.eye(4)).max() < 6 / ROWS**0.5


@pytest.mark.parametrize("name", ["mixture", "mixture-logits", "block-mixture"])
def test_the_dimensions_of_a_block_are_drawn_from_one_component(name):
    folded = BaseDistribution(base(name, (2, 3))).fold()
    draws = folded.from_noise(noise_for(folded))
    weights = folded.bounds.diff(prepend=torch.zeros(len(folded.loc), 1), append=torch.ones(len(folded.loc), 1)).numpy()
    for block, piece in enumerate(draws.chunk(len(folded.loc), dim=1)):
        direction = torch.linspace(1, 2, piece.shape[1], dtype=torch.float64)
        loc, scale = folded.loc[block] @ direction, (folded.scale[block] ** 2 @ direction**2).sqrt()
        # A mixture of normals seen along a line is a mixture of normals of the same weights.
        cdf = _mixture_cdf(weights[block], loc.numpy(), scale.numpy())
        assert scipy.stats.kstest((piece @ direction).numpy(), cdf).pvalue > 1e-3


def test_draws_keep_their_digits_in_both_tails():
    noise = torch.tensor([[-37.0], [-9.0], [-1e-12], [0.0], [1e-12], [9.0], [37.0]], dtype=torch.float64)
    laplace = BaseDistribution(Laplace(torch.zeros((), dtype=torch.float64), 1.0)).fold().from_noise(noise).flatten()
    tail = scipy.stats.norm.logcdf([-37.0, -9.0]) + np.log(2)
    near = 1e-12 * np.sqrt(2 / np.pi)
    expected = torch.from_numpy(np.array([*tail, -near, 0.0, near, *-tail[::-1]]))
    torch.testing.assert_close(laplace, expected, rtol=1e-11, atol=0)
    uniform = BaseDistribution(Uniform(torch.zeros((), dtype=torch.float64), 1.0)).fold().from_noise(noise).flatten()
    torch.testing.assert_close(uniform[:2], torch.from_numpy(scipy.stats.norm.cdf([-37.0, -9.0])), rtol=1e-13, atol=0)
    assert float(uniform.max()) < 1.0
    student = BaseDistribution(StudentT(torch.tensor(1.5, dtype=torch.float64))).fold()
    extreme = student.from_noise(torch.tensor([[-8.0, -40.0], [40.0, 0.3]], dtype=torch.float64)).flatten()
    u = scipy.stats.norm.logcdf(-8.0)
    torch.testing.assert_close(float(extreme[0]), float(np.sqrt(1.5 * np.expm1(-2 / 1.5 * u))), rtol=1e-11, atol=0)
    assert float(extreme[1]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_is_minus_infinity_outside_and_its_draws_are_inside(dtype):
    low, high = torch.tensor([0.0, -1.0], dtype=dtype), torch.tensor([1.0, 1e-3], dtype=dtype)
    module = BaseDistribution(Independent(Uniform(low, high), 1))
    rows = torch.tensor(
        [[0.5, 0.0], [0.0, -1.0], [1.0, 0.0], [-0.1, 0.0], [0.5, float("nan")], [0.5, 2.0]], dtype=dtype
    )
    expected = module.log_prob(rows[:1]).expand(6).clone()
    expected[[2, 3, 5]], expected[4] = -float("inf"), float("nan")
    for log_prob in (module.log_prob(rows), module.fold().log_prob(rows)):
        torch.testing.assert_close(log_prob, expected, equal_nan=True)
    draws = module.fold().from_noise(torch.tensor([[40.0, 40.0], [-40.0, -40.0], [9.0, 9.0]], dtype=torch.float64))
    assert bool(torch.isfinite(module.log_prob(draws)).all())
    scalar = BaseDistribution(Uniform(low[0], high[0])).log_prob(torch.tensor([0.5, 1.5, float("nan")], dtype=dtype))
    torch.testing.assert_close(scalar, torch.tensor([0.0, -np.inf, np.nan], dtype=dtype), equal_nan=True)


def test_a_student_t_of_many_degrees_of_freedom_is_exact_in_float32():
    df = torch.tensor([3.0, 1e4, 1e6])
    module = BaseDistribution(Independent(StudentT(df, torch.zeros(3), torch.ones(3)), 1))
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(scipy.stats.t.logpdf(x.double().numpy(), df.double().numpy()).sum(1)).float()
    torch.testing.assert_close(module.log_prob(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module.fold().log_prob(x), expected, rtol=1e-5, atol=1e-5)
    # What this guards against: torch's own normaliser in float32.
    assert float((module.distribution().log_prob(x) - expected).abs().max()) > 0.05


def test_a_component_of_weight_zero_is_never_drawn():
    components = Normal(torch.tensor([-100.0, 0.0, 100.0], dtype=torch.float64), 1.0)
    weights = Categorical(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    folded = BaseDistribution(MixtureSameFamily(weights, components)).fold()
    assert float(folded.from_noise(noise_for(folded)).abs().max()) < 10


@pytest.mark.parametrize(
    ("distribution", "name"),
    [
        (Cauchy(torch.zeros(2), torch.ones(2)), "Cauchy"),
        (Independent(Cauchy(torch.zeros(2), torch.ones(2)), 1), "Cauchy"),
        (LogNormal(torch.zeros(2), torch.ones(2)), "LogNormal"),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), "MultivariateNormal"),
        (
            MixtureSameFamily(Categorical(torch.ones(3)), Laplace(torch.zeros(3), torch.ones(3))),
            r"MixtureSameFamily\(Categorical, Laplace\)",
        ),
    ],
)
def test_a_foreign_distribution_works_and_is_refused_by_name_at_export(distribution, name):
    module = BaseDistribution(distribution)
    x = distribution.sample((3,))
    assert torch.equal(module.log_prob(x), distribution.log_prob(x))
    choices = r"use Normal, Laplace, StudentT or Uniform, or MixtureSameFamily\(Categorical, Normal\)"
    with pytest.raises(ExportError, match=rf"base distribution {name} cannot be exported; {choices}"):
        module.fold()
    with pytest.raises(ExportError, match=rf"base distribution {name} cannot be written to an artefact; {choices}"):
        module.to_json()


@pytest.mark.parametrize("name", BASES)
def test_a_batch_of_bases_is_refused_at_export(name):
    distribution = base(name, (2, 3)).expand((5,)) if name != "normal" else Normal(torch.zeros(5), torch.ones(5))
    with pytest.raises(ExportError, match=r"with batch shape \(5,\) cannot be exported.*Independent\(base, 1\)"):
        BaseDistribution(distribution).fold()


def test_a_parameter_that_is_not_finite_is_named():
    weights = Categorical(logits=torch.tensor([0.0, -float("inf")]))
    module = BaseDistribution(MixtureSameFamily(weights, Normal(torch.zeros(2), torch.ones(2))))
    with pytest.raises(ExportError, match=r"NormalMixture: logits holds a value that is not finite.*weight 0"):
        module.fold()


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({"family": "Cauchy", "parameters": {}}, "unknown base distribution 'Cauchy'; expected one of Normal, Laplace"),
        (
            {"family": "Normal", "parameters": {"loc": 0.0}},
            r"base distribution Normal: parameter\(s\) \['scale'\]",
        ),
        (
            {"family": "Normal", "event_dims": 0, "dtype": "int8", "parameters": {"loc": 0.0, "scale": 1.0}},
            "dtype 'int8' given; expected float32 or float64",
        ),
        (
            {"family": "Normal", "event_dims": 0, "dtype": "float32", "parameters": {"loc": 0.0, "scale": -1.0}},
            "base distribution Normal cannot be made of its parameters",
        ),
        (
            {"family": "Normal", "event_dims": 2, "dtype": "float32", "parameters": {"loc": 0.0, "scale": 1.0}},
            "base distribution Normal cannot be made of its parameters",
        ),
    ],
)
def test_what_cannot_be_read_says_why(written, text):
    with pytest.raises(PlanError, match=text):
        base_from_json(written)


class _Scripted(torch.nn.Module):
    """A folded base behind methods that TorchScript compiles."""

    def __init__(self, folded):
        super().__init__()
        self.folded = folded

    @torch.jit.export
    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return self.folded.log_prob(x)

    @torch.jit.export
    def from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        return self.folded.from_noise(noise)


def _validated_off(distribution):
    return BaseDistribution(distribution).distribution()


def _marginals(name, module):
    """The CDF of each of four columns."""
    values = {key: value.numpy() for key, value in module.state_dict().items()}
    if name == "normal":
        return [scipy.stats.norm(values["loc"][i], values["scale"][i]).cdf for i in range(4)]
    if name == "laplace":
        return [scipy.stats.laplace(values["loc"][i], values["scale"][i]).cdf for i in range(4)]
    if name == "student-t":
        return [scipy.stats.t(values["df"][i], values["loc"][i], values["scale"][i]).cdf for i in range(4)]
    if name == "uniform":
        return [scipy.stats.uniform(values["low"][i], (values["high"] - values["low"])[i]).cdf for i in range(4)]
    logits = values["logits"].reshape(-1, 3)
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    blocks = len(weights)
    loc, scale = (values[key].reshape(blocks, 3, -1) for key in ("loc", "scale"))
    places = [(g, e) for g in range(blocks) for e in range(4 // blocks)]
    return [_mixture_cdf(weights[g], loc[g, :, e], scale[g, :, e]) for g, e in places]


def _mixture_cdf(weights, loc, scale):
    return lambda x: (scipy.stats.norm.cdf(x[:, None], loc, scale) * weights).sum(1)


def test_the_normal_log_density_has_every_derivative_that_torch_gives_it():
    loc, scale = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    normal = Independent(Normal(loc, scale), 1)
    own = BaseDistribution(normal)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert "NormalLogProb" in own.log_prob(x).grad_fn.name()
    assert torch.autograd.gradcheck(own.log_prob, x)
    assert torch.autograd.gradgradcheck(own.log_prob, x)
    rows = x.detach()
    for take in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        expected = torch.func.vmap(take(normal.log_prob))(rows)
        torch.testing.assert_close(torch.func.vmap(take(own.log_prob))(rows), expected)
    expected = torch.autograd.functional.jacobian(normal.log_prob, rows)
    torch.testing.assert_close(torch.autograd.functional.jacobian(own.log_prob, rows, vectorize=True), expected)


def test_a_location_and_scale_that_learn_get_their_gradients():
    own = BaseDistribution(Independent(Normal(torch.zeros(3), torch.ones(3)), 1))
    own.loc.requires_grad_()
    own.scale.requires_grad_()
    x = torch.randn(50, 3)
    own.log_prob(x).sum().backward()
    torch.testing.assert_close(own.loc.grad, x.sum(0))
    torch.testing.assert_close(own.scale.grad, (x.square() - 1).sum(0))
