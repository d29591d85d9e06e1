"""The affine transformer: FlowTorch's scales and its clamping, and logarithms that do not overflow."""

from __future__ import annotations

import math

import flowtorch.bijectors
import flowtorch.parameters
import pytest
import torch
from flows import normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.bijectors.scale import SCALES, log_scale, log_scale_slope
from flowmodel.errors import PlanError


def test_clamped_exp_has_the_values_and_gradients_of_flowtorch():
    # Release 0.8 knows this scale alone, and clamps always.
    limits = {"log_scale_min_clip": -2.0, "log_scale_max_clip": 1.5}
    theirs = flowtorch.bijectors.AffineAutoregressive(
        flowtorch.parameters.DenseAutoregressive(), shape=torch.Size([4]), **limits
    )
    plan = bij.AffineAutoregressive(scale_fn="exp", clamp_values=True, **limits)
    x, shift, seed, u = rows()
    ours = plan(shape=torch.Size([4])).transformer
    for name, their_name, sign in (("push", "_forward", 1), ("pull", "_inverse", -1)):
        value, log_slope = getattr(ours, name)(x.T, torch.stack([shift, u], -1).permute(1, 2, 0))
        expected, expected_log_det = getattr(theirs, their_name)(x, (shift, u))
        check(value.T, sign * log_slope.sum(0), expected, expected_log_det, seed, u)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize(
    ("scale_fn", "sigma"),
    [("softplus", torch.nn.functional.softplus), ("exp", torch.exp), ("sigmoid", torch.sigmoid)],
)
def test_the_scales_of_flowtorch_by_their_formulas(scale_fn, sigma, clamp):
    plan = bij.AffineAutoregressive(
        scale_fn=scale_fn, clamp_values=clamp, log_scale_min_clip=-2.0, log_scale_max_clip=1.5
    )
    transformer = plan(shape=torch.Size([4])).transformer
    x, shift, seed, u = rows()
    # Straight through: the value of the clamped u, the gradient of one that was not clamped.
    scale = sigma(u + (u.clamp(-2, 1.5) - u).detach() if clamp else u)
    for name, expected in (("push", shift + scale * x), ("pull", (x - shift) / scale)):
        value, log_slope = getattr(transformer, name)(x.T, torch.stack([shift, u], -1).permute(1, 2, 0))
        sign = 1 if name == "push" else -1
        check(value.T, sign * log_slope.sum(0), expected, scale.log().sum(-1), seed, u)


def rows() -> tuple[torch.Tensor, ...]:
    """Values, shifts and seeds ``[60, 4]``, and raw scales on both sides of the limits."""
    torch.manual_seed(0)
    x, shift, seed = torch.randn(3, 60, 4, dtype=torch.float64)
    return x, shift, seed, torch.linspace(-6, 6, 240, dtype=torch.float64).view(60, 4).requires_grad_()


def check(value, log_det, expected, expected_log_det, seed, u) -> None:
    """Values, log-determinants and their gradients in ``u`` agree."""
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, expected_log_det, rtol=1e-12, atol=1e-12)
    (one,) = torch.autograd.grad((value * seed).sum() + log_det.sum(), u, retain_graph=True)
    (other,) = torch.autograd.grad((expected * seed).sum() + expected_log_det.sum(), u, retain_graph=True)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SCALES)
def test_logarithm_of_the_scale_and_its_slope_far_from_nought(name):
    far = torch.tensor([-200.0, -90.0, -21.0, -20.0, -19.0, 0.0, 19.0, 30.0])
    for dtype in (torch.float32, torch.float64):
        u = far.to(dtype).requires_grad_()
        value = log_scale(u, name)
        (slope,) = torch.autograd.grad(value.sum(), u)
        assert bool(value.isfinite().all() & slope.isfinite().all())
        torch.testing.assert_close(log_scale_slope(u.detach(), name), slope)
    reference = {
        "bounded": lambda v: v / math.sqrt(1 + (v / math.log(1000)) ** 2),
        "exp": lambda v: v,
        # log(log1p(e^v)) loses nothing in float64 down to e^-200.
        "softplus": lambda v: math.log(math.log1p(math.exp(v))),
        "sigmoid": lambda v: -math.log1p(math.exp(-v)) if v > -30 else v,
    }[name]
    expected = torch.tensor([reference(v) for v in far.tolist()], dtype=torch.float64)
    # torch takes softplus(v) for v above 20, wrong by e^-20.
    torch.testing.assert_close(log_scale(far.to(torch.float64), name), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(log_scale(far, name), expected.to(torch.float32), rtol=1e-6, atol=1e-8)


def test_at_nought_the_scales_are_as_documented():
    at = {name: float(log_scale(torch.zeros((), dtype=torch.float64), name).exp()) for name in SCALES}
    assert at == pytest.approx({"bounded": 1.0, "exp": 1.0, "softplus": math.log(2), "sigmoid": 0.5}, abs=1e-15)


def test_an_untrained_shrinking_scale_gives_the_shrunk_base():
    flow = dist.Flow(normal((3,)), bij.AffineAutoregressive(scale_fn="softplus"))
    y = torch.randn(20, 3, dtype=torch.float64)
    closed = torch.distributions.Normal(0.0, torch.tensor(math.log(2), dtype=torch.float64)).log_prob(y).sum(-1)
    torch.testing.assert_close(flow.log_prob(y), closed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plan", [bij.Affine, bij.AffineAutoregressive, bij.AffineCoupling])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"scale_fn": "cosh"}, "scale_fn='cosh' given; expected one of bounded, softplus, exp, sigmoid"),
        ({"log_scale_min_clip": 4.0}, "log_scale_min_clip=4.0 and log_scale_max_clip=3.0 given; expected two finite"),
        ({"log_scale_max_clip": math.inf}, "log_scale_max_clip=inf given"),
        ({"params_fn": bij.Permute()}, r"params_fn=Permute\(permutation=None\) given; expected"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(plan, arguments, text):
    with pytest.raises(PlanError, match=f"{plan.__name__}: .*{text}"):
        plan(**arguments)


def test_no_conditioner_given_takes_the_default_one():
    assert bij.AffineAutoregressive(None) == bij.AffineAutoregressive(params.DenseAutoregressive())
    assert bij.Affine(None) == bij.Affine(params.Tensor())
    assert bij.AffineCoupling(None) == bij.AffineCoupling(params.Dense())
