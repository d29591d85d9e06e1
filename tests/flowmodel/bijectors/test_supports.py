"""Supports of columns: exact maps into them, exactly -inf outside, in eager and exported form alike."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from flows import normal
from torch.distributions import Independent, LogNormal, Uniform

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.errors import DataError, PlanError, ReparameterisationError, ShapeMismatchError
from flowmodel.plans import plan_from_json

MIXED = (bij.Real(), bij.Periodic(-3, 6), bij.Positive(), bij.Integer(0), bij.Bounded(2, 5), bij.Integer(None, 9))
CASES = {
    "mixed": MIXED,
    "integers": (bij.Integer(), bij.Integer(-2, 3), bij.Integer(4), bij.Integer(None, -1)),
    "one": (bij.Bounded(0, 1),),
    "real": (bij.Real(), bij.Real()),
}


def flow_over(supports, dtype=torch.float64):
    return dist.Flow(normal((len(supports),), dtype), bij.Supports(supports))


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_positive_over_a_normal_is_lognormal():
    flow = dist.Flow(normal((2,)), bij.Supports(bij.Positive()))
    closed = Independent(LogNormal(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)), 1)
    y = torch.logspace(-200, 200, 500, dtype=torch.float64)[:, None].expand(500, 2)
    close(flow.log_prob(y), closed.log_prob(y), 1e-12)
    assert flow.bijector.codomain.check(y).all()


def test_bounded_over_a_normal_is_uniform():
    flow = dist.Flow(normal((1,)), bij.Supports(bij.Bounded(-3, 5)))
    y = torch.linspace(-3, 5, 1001, dtype=torch.float64)[1:-1, None]
    low, high = torch.tensor([-3.0, 5.0], dtype=torch.float64)
    close(flow.log_prob(y), Uniform(low, high).log_prob(y).sum(-1), 1e-12)
    # The density is even as close to a bound as numbers come.
    hair = torch.tensor([[math.nextafter(-3, 0)], [math.nextafter(5, 0)]], dtype=torch.float64)
    close(flow.log_prob(hair), torch.full((2,), -math.log(8), dtype=torch.float64), 1e-12)


def test_periodic_over_a_normal_is_uniform_also_at_the_cut_and_after_many_turns():
    flow = dist.Flow(normal((1,)), bij.Supports(bij.Periodic(0, 360)))
    flow.standardize_(torch.tensor([[350.0], [10.0], [30.0]]))
    assert flow.bijector.cuts() == {0: 190.0}
    y = torch.tensor([[0.0], [190.0], [359.9], [360.0], [-7.5], [1e6], [190.0 + 720]], dtype=torch.float64)
    close(flow.log_prob(y), torch.full((7,), -math.log(360), dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("name", list(CASES))
def test_log_determinant_is_that_of_the_autograd_jacobian_and_the_maps_are_inverse(name):
    flow = flow_over(CASES[name])
    size = len(CASES[name])
    torch.manual_seed(1)
    x = 1.5 * torch.randn(20, size, dtype=torch.float64)
    y, log_det = flow.bijector.forward_and_log_det(x)
    back, inverse_log_det = flow.bijector.inverse_and_log_det(y)
    close(back, x, 1e-9)
    close(inverse_log_det, -log_det, 1e-9)
    for row in range(20):
        jacobian = torch.autograd.functional.jacobian(flow.bijector.forward, x[row])
        close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet, 1e-9)
        jacobian = torch.autograd.functional.jacobian(flow.bijector.inverse, y[row])
        close(inverse_log_det[row], torch.linalg.slogdet(jacobian).logabsdet, 1e-9)


@pytest.mark.parametrize("sigma", [-37.0, -20.0, -8.0, -1e-9, 0.0])
def test_the_tail_at_a_bound_keeps_its_digits(sigma):
    bijector = bij.Supports(bij.Bounded(0, 7)).build(torch.Size([1]))
    bijector.to(torch.float64)
    z = torch.tensor([[sigma]], dtype=torch.float64, requires_grad=True)
    y, log_det = bijector.forward_and_log_det(z)
    close(bijector.inverse(y), z, 1e-12)
    (slope,) = torch.autograd.grad(y.sum(), z)
    close(slope.log().sum(), log_det.sum(), 1e-12)


def test_a_mixed_density_integrates_to_one():
    torch.manual_seed(0)
    plan = bij.Compose([bij.Affine(), bij.Standardize(), bij.Supports((bij.Positive(), bij.Periodic(0, 4)))])
    flow = dist.Flow(normal((2,)), plan)
    rows = torch.stack([torch.randn(400).exp(), torch.remainder(torch.randn(400) * 0.6, 4)], 1).double()
    flow.standardize_(rows)
    # On the logarithm of the first column, so that one grid resolves both ends.
    steps = 1500
    line = torch.linspace(-12, 12, steps, dtype=torch.float64)
    turn = (torch.arange(steps, dtype=torch.float64) + 0.5) * 4 / steps
    grid = torch.cartesian_prod(line, turn)
    cell = (line[1] - line[0]) * 4 / steps
    with torch.no_grad():
        density = (flow.log_prob(torch.stack([grid[:, 0].exp(), grid[:, 1]], 1)) + grid[:, 0]).exp()
    # The midpoint rule misses what lies between the cut and the cells beside it: 1e-4 at this step.
    assert abs(float(density.sum() * cell) - 1) < 1e-3


def test_whole_numbers_have_a_density_whose_cells_sum_to_one():
    flow = dist.Flow(normal((1,)), bij.Compose([bij.Standardize(), bij.Supports(bij.Integer(0, 60))]))
    generator = torch.Generator().manual_seed(0)
    rows = torch.poisson(torch.full((4000, 1), 20.0, dtype=torch.float64), generator=generator)
    flow.standardize_(flow.bijector.jitter(rows, generator))
    every = torch.arange(61, dtype=torch.float64)[:, None]
    # The midpoint rule over cells of width 1 where the deviation is 4.5.
    assert abs(float(flow.log_prob(every).exp().sum()) - 1) < 1e-3
    samples = flow.sample((2000,))
    assert torch.equal(samples, samples.round())
    assert float(samples.min()) >= 0
    assert float(samples.max()) <= 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_and_beyond_a_bound_exactly_minus_infinity_and_nan_stays(dtype):
    flow = flow_over((bij.Positive(), bij.Bounded(0, 1), bij.Integer(0, 5), bij.Periodic(0, 1), bij.Real()), dtype)
    good = [1.0, 0.5, 2.0, 0.3, 0.0]
    bad = [(0, 0.0), (0, -1.0), (0, math.inf), (1, 0.0), (1, 1.0), (1, 7.0), (2, -0.5), (2, 6.0), (3, math.inf)]
    bad += [(4, -math.inf)]
    rows = torch.tensor([good] * (len(bad) + 2), dtype=torch.float64)
    for row, (column, value) in enumerate(bad):
        rows[row, column] = value
    rows[-2, 1] = math.nan
    rows.requires_grad_()
    folded = torch.jit.script(flow.bijector.fold())
    log_prob = flow.log_prob(rows)
    assert bool((log_prob[: len(bad)] == -math.inf).all())
    assert bool(log_prob[-2].isnan())
    assert bool(log_prob[-1].isfinite())
    for eager, exported in zip(flow.bijector.pull(rows, None), folded.pull(rows, None), strict=True):
        assert torch.equal(eager.nan_to_num(nan=77.0), exported.nan_to_num(nan=77.0))
    keep = torch.arange(len(rows)) != len(rows) - 2
    flow.bijector.pull(rows, None)[0][keep].sum().backward(retain_graph=True)
    (gradient,) = torch.autograd.grad(log_prob[-1], rows)
    assert bool(gradient[keep].isfinite().all())
    inside = flow.bijector.codomain.check(rows.detach())
    assert inside.tolist() == [False] * (len(bad) + 1) + [True]


def test_a_hair_inside_every_bound_is_finite_with_its_gradient():
    flow = flow_over((bij.Bounded(1, 2), bij.Integer(3, 9)))
    rows = [[math.nextafter(1, 2), 4], [math.nextafter(2, 1), 4], [1.5, math.nextafter(2.5, 3)]]
    rows = torch.tensor([*rows, [1.5, math.nextafter(9.5, 9)]], dtype=torch.float64, requires_grad=True)
    log_prob = flow.log_prob(rows)
    (gradient,) = torch.autograd.grad(log_prob.sum(), rows)
    assert bool(log_prob.isfinite().all())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_lie_inside_however_far_the_noise(dtype):
    supports = (bij.Positive(), bij.Bounded(0.1, 1), bij.Periodic(-math.pi, 2 * math.pi), bij.Bounded(-1e-3, 0.3))
    flow = flow_over(supports, dtype)
    noise = torch.tensor([-200.0, -38, -9, -5.5, 0, 5.5, 9, 38, 800], dtype=dtype)[:, None].expand(9, 4)
    y = flow.bijector.forward(noise)
    assert bool(flow.bijector.codomain.check(y.double()).all())
    assert bool(((y[:, 2].double() >= -math.pi) & (y[:, 2].double() < math.pi)).all())
    assert bool(flow.log_prob(y).isfinite().all())
    exported, _ = torch.jit.script(flow.bijector.fold()).push(noise, None)
    assert torch.equal(exported, y)


def test_float32_flows_keep_the_digits_of_float64_data():
    plan = bij.Compose([bij.Affine(), bij.Standardize(), bij.Supports((bij.Real(), bij.Positive()))])
    flow = dist.Flow(normal((2,), torch.float32), plan)
    stamps = 1.7e9 + torch.arange(100, dtype=torch.float64)
    rows = torch.stack([stamps, torch.linspace(1, 2, 100, dtype=torch.float64)], 1)
    flow.standardize_(rows)
    assert flow.data_dtype is torch.float64
    apart = flow.bijector.inverse(rows)[:, 0].detach().diff()
    assert apart.dtype is torch.float32
    close(apart, torch.full_like(apart, float(apart.mean())), 1e-4)
    exported = torch.jit.script(flow.bijector.fold())
    assert torch.equal(exported.pull(rows, None)[0], flow.bijector.pull(rows, None)[0])


def test_cuts_are_saved_moved_and_never_rounded():
    flow = flow_over((bij.Periodic(0, 1), bij.Bounded(0, 1)), torch.float32)
    rows = torch.rand(101, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.1
    flow.standardize_(rows)
    cut = flow.bijector.cut.clone()
    assert not 0.1 < float(cut[0]) < 0.8
    other = flow_over((bij.Periodic(0, 1), bij.Bounded(0, 1)), torch.float32)
    other.load_state_dict(flow.state_dict())
    for one in (other, copy.deepcopy(flow), copy.deepcopy(flow).to(torch.float64).to(torch.float32)):
        assert one.bijector.cut.dtype is torch.float64
        assert torch.equal(one.bijector.cut, cut)


def test_jitter_spreads_whole_columns_over_their_cells_and_leaves_the_others():
    supports = (bij.Real(), bij.Integer(0), bij.Positive())
    bijector = bij.Supports(supports).build(torch.Size([3]))
    assert bijector.integers().tolist() == [False, True, False]
    rows = torch.tensor([[0.5, 3.0, 2.0]], dtype=torch.float64).expand(5000, 3).clone()
    spread = bijector.jitter(rows, torch.Generator().manual_seed(3))
    assert torch.equal(spread, bijector.jitter(rows, torch.Generator().manual_seed(3)))
    assert torch.equal(spread[:, [0, 2]], rows[:, [0, 2]])
    assert float(spread[:, 1].min()) > 2.5
    assert float(spread[:, 1].max()) < 3.5
    # The deviation of a uniform density of width 1, and its standard error for 5000 draws.
    assert abs(float(spread[:, 1].std()) - 12**-0.5) < 0.01
    # Outliers are not moved into the support.
    assert float(bijector.jitter(torch.full((1, 3), -4.0), torch.Generator())[0, 1]) < -3.4


def test_without_whole_columns_jitter_draws_nothing():
    bijector = bij.Supports((bij.Real(), bij.Positive())).build(torch.Size([2]))
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    rows = torch.ones(3, 2)
    assert bijector.jitter(rows, generator) is rows
    assert torch.equal(generator.get_state(), state)


def test_samples_of_whole_columns_are_rounded_and_rsample_is_refused():
    flow = dist.Flow(normal((2,)), bij.Compose([bij.Affine(), bij.Supports((bij.Real(), bij.Integer(0, 3)))]))
    samples = flow.sample((500,))
    assert set(samples[:, 1].tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert not flow.has_rsample
    with pytest.raises(ReparameterisationError, match=r"dimension\(s\) \[1\] are rounded.*use sample\(\)"):
        flow.rsample((2,))


@pytest.mark.parametrize("name", list(CASES))
def test_plan_as_json(name):
    plan = bij.Supports(CASES[name])
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert eval(repr(plan), {"__builtins__": {}}, vars(bij)) == plan


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: bij.Supports(()), "no columns given; expected a support for each"),
        (lambda: bij.Supports((bij.Real(), 3)), r"columns\[1\] is 3; expected one of bij.Real\(\)"),
        (lambda: bij.Bounded(1, 1), "low=1, high=1 given; expected low below high"),
        (lambda: bij.Bounded(0, math.inf), "high=inf given; expected a finite number"),
        (lambda: bij.Integer(0.5), "low=0.5 given; expected a whole number or None"),
        (lambda: bij.Integer(3, 3), "low=3, high=3 given; expected low below high"),
        (lambda: bij.Periodic(0, 0), "low=0, period=0 given; expected a period above 0"),
        (lambda: bij.Periodic("a", 1), "low='a' given; expected a finite number"),
    ],
)
def test_a_wrong_value_is_refused_when_the_plan_is_made(make, text):
    with pytest.raises(PlanError, match=text):
        make()


def test_another_number_of_supports_than_dimensions():
    with pytest.raises(ShapeMismatchError, match=r"2 supports given for an event of shape \(3,\) with 3 dimensions"):
        dist.Flow(normal((3,)), bij.Supports((bij.Real(), bij.Real())))


def test_rows_outside_are_refused_when_the_flow_learns_from_them():
    flow = flow_over((bij.Real(), bij.Bounded(0, 1)))
    with pytest.raises(DataError, match="row 1, dimension 1 is 1; its support is numbers between, not at, 0 and 1"):
        flow.standardize_(torch.tensor([[0.0, 0.5], [3.0, 1.0]]))
