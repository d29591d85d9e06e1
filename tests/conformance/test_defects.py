"""FlowTorch's defects, each shown by FlowTorch 0.8 itself and absent here, so that every test can fail."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import flowtorch.bijectors as their_bij
import flowtorch.distributions as their_dist
import flowtorch.parameters as their_params
import pytest
import torch
from flows import normal, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.errors import ArgumentError, DomainError, PlanError

pytestmark = pytest.mark.filterwarnings("ignore:Computing _log_abs_det_jacobian from values:UserWarning")

AR = bij.AffineAutoregressive


def base(*shape: int) -> torch.distributions.Distribution:
    return normal(shape, torch.float32)


def their_flow(plan, *shape: int):
    torch.manual_seed(0)
    flow = their_dist.Flow(base(*shape), plan)
    disturb(flow)
    return flow


def their_ar(**arguments):
    return their_bij.AffineAutoregressive(their_params.DenseAutoregressive(**arguments))


@torch.no_grad()
def disturb(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter += 0.3 * torch.randn_like(parameter)


def log_slope(function, x: torch.Tensor) -> torch.Tensor:
    jacobian = torch.autograd.functional.jacobian(lambda value: function(value) + 0.0, x)
    return torch.linalg.slogdet(jacobian).logabsdet


def test_the_log_determinant_of_an_inverse_has_its_sign():
    x = torch.randn(3)
    theirs = their_bij.Invert(their_ar())(shape=torch.Size([3]))
    disturb(theirs)
    given = theirs.log_abs_det_jacobian(x, theirs.forward(x).detach().clone())
    torch.testing.assert_close(given.detach(), -log_slope(theirs.forward, x), rtol=1e-3, atol=1e-3)
    assert abs(float(given.detach())) > 0.1

    ours = bij.Invert(AR())(shape=torch.Size([3]))
    disturb(ours)
    given = ours.log_abs_det_jacobian(x, ours.forward(x))
    assert abs(float(given.detach())) > 0.1
    torch.testing.assert_close(given.detach(), log_slope(ours.forward, x), rtol=1e-3, atol=1e-3)


def test_an_inverted_flow_is_normalised():
    grid = torch.cartesian_prod(*[torch.linspace(-30, 30, 601)] * 2)
    theirs = their_flow(their_bij.Invert(their_ar(hidden_dims=(16,))), 2)
    ours = dist.Flow(base(2), bij.Invert(AR(params.DenseAutoregressive((16,)))))
    disturb(ours)
    mass = {name: float(flow.log_prob(grid).detach().exp().sum() * 0.01) for name, flow in (("t", theirs), ("o", ours))}
    assert abs(mass["t"] - 1) > 0.1
    assert abs(mass["o"] - 1) < 1e-3


def test_a_context_reaches_the_inverse_as_the_context():
    y = torch.randn(4, 3)
    with pytest.raises(AssertionError):
        their_flow(their_bij.Affine(their_params.Tensor()), 3).condition(torch.zeros(2)).log_prob(y)

    flow = trained_flow(bij.Compose([AR(), AR()]), (3,), (2,), torch.float32)
    one, other = torch.zeros(2), torch.ones(2)
    assert not torch.equal(flow.log_prob(y, one), flow.log_prob(y, other))
    torch.testing.assert_close(flow.condition(one).log_prob(y), flow.log_prob(y, one))
    # What is normalised by a context comes back by that context alone.
    standard = flow.standard_context(one)
    torch.testing.assert_close(flow.bijector(flow.normalize(y, one), standard), y, rtol=1e-4, atol=1e-4)


def test_events_may_have_several_dimensions():
    y = torch.randn(4, 2, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        their_flow(their_ar(), 2, 3).log_prob(y)
    flow = dist.Flow(base(2, 3), AR())
    torch.testing.assert_close(flow.log_prob(y), base(2, 3).log_prob(y))
    assert flow.sample((5,)).shape == (5, 2, 3)


def test_skip_connections_work():
    y = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        their_flow(their_ar(skip_connections=True), 3).log_prob(y)
    flow = dist.Flow(base(3), AR(params.DenseAutoregressive(skip_connections=True)))
    disturb(flow)
    torch.testing.assert_close(flow.bijector(flow.bijector.inverse(y)), y, rtol=1e-4, atol=1e-4)
    assert "bijector.made.skip_weight" in flow.state_dict()


def test_the_base_moves_and_is_saved_with_the_flow():
    theirs = their_flow(their_ar(), 3).double()
    assert [name for name in theirs.state_dict() if "base" in name] == []
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        theirs.sample()
    flow = dist.Flow(base(3), AR()).double()
    assert {"base.loc", "base.scale"} <= set(flow.state_dict())
    assert flow.sample().dtype == flow.log_prob(torch.zeros(3).double()).dtype == torch.float64


def test_a_drawn_permutation_is_saved():
    their_permutation = their_flow(their_bij.Permute(), 6)
    their_permutation.sample()
    assert list(their_permutation.state_dict()) == []
    flow, other = dist.Flow(base(6), bij.Permute()), dist.Flow(base(6), bij.Permute())
    other.load_state_dict(flow.state_dict())
    x = torch.randn(6)
    assert torch.equal(flow.bijector(x), other.bijector(x))


def test_the_density_of_a_sample_is_that_of_the_present_weights():
    def stale(flow) -> bool:
        samples = flow.sample((4,))
        flow.log_prob(samples)
        disturb(flow)
        copied = torch.tensor(samples.numpy().copy())
        return not torch.allclose(flow.log_prob(samples).detach(), flow.log_prob(copied).detach(), rtol=1e-3)

    assert stale(their_flow(their_ar(), 3))
    assert not stale(dist.Flow(base(3), AR()))


def test_the_density_of_a_sample_has_gradients():
    theirs, ours = their_flow(their_ar(), 3), dist.Flow(base(3), AR())
    assert not theirs.log_prob(theirs.sample((4,))).requires_grad
    assert ours.log_prob(ours.sample((4,))).requires_grad


def test_a_sample_is_a_plain_tensor_that_keeps_nothing_alive():
    def outlived(make) -> bool:
        flow = make()
        samples, module = flow.sample((4,)), weakref.ref(flow.bijector)
        del flow
        gc.collect()
        assert samples.shape == (4, 3)
        return module() is not None

    assert outlived(lambda: their_flow(their_ar(), 3))
    assert not outlived(lambda: dist.Flow(base(3), AR()))
    assert type(dist.Flow(base(3), AR()).sample()) is torch.Tensor


def test_conditioning_leaves_the_flow_as_it_is():
    theirs = their_flow(their_ar(), 3)
    assert theirs.condition(torch.zeros(2)) is theirs
    flow = dist.Flow(base(3), AR(), context_shape=(2,))
    conditioned = flow.condition(torch.zeros(2))
    assert conditioned is not flow
    assert flow.conditioned_on is None


def test_threads_condition_one_flow_each_in_its_own_way():
    flow = trained_flow(bij.Compose([AR(), bij.Permute(), AR()]), (3,), (2,))
    contexts = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None].expand(8, 2)
    y = torch.randn(20, 3, dtype=torch.float64)
    expected = [flow.log_prob(y, context).detach() for context in contexts]
    noise = [flow.bijector.inverse(y, flow.standard_context(context)).detach() for context in contexts]
    assert len({float(answer.sum()) for answer in expected}) == 8
    start, wrong = threading.Barrier(8), []

    def condition(place: int) -> None:
        start.wait()
        for _ in range(30):
            mine = flow.condition(contexts[place])
            if not torch.equal(mine.log_prob(y).detach(), expected[place]):
                wrong.append((place, "log_prob"))
            if not torch.equal(mine.normalize(y), noise[place]):
                wrong.append((place, "normalize"))
            if mine.conditioned_on is None or not torch.equal(mine.conditioned_on, contexts[place]):
                wrong.append((place, "context"))

    threads = [threading.Thread(target=condition, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert flow.conditioned_on is None


def test_the_default_network_takes_more_than_256_dimensions():
    with pytest.raises(ValueError, match="Hidden dimension must not be less than input dimension"):
        their_flow(their_ar(), 300)
    y = torch.randn(2, 300)
    torch.testing.assert_close(dist.Flow(base(300), AR()).log_prob(y), base(300).log_prob(y))


def test_outside_the_support_the_density_is_exactly_0():
    rows = torch.tensor([[0.5, 1.5], [0.5, 0.5]])
    assert bool(their_flow(their_bij.Sigmoid(), 2).log_prob(rows).isfinite().all())
    log_prob = dist.Flow(base(2), bij.Sigmoid()).log_prob(rows)
    assert float(log_prob[0]) == -float("inf")
    assert bool(log_prob[1].isfinite())
    # One row outside the support of Exp is an error there for the whole batch.
    rows = torch.tensor([[-1.0, 0.5], [0.5, 0.5]])
    strict = torch.distributions.Normal(torch.zeros(2), torch.ones(2), validate_args=True)
    with pytest.raises(ValueError, match="to be within the support"):
        their_dist.Flow(torch.distributions.Independent(strict, 1), their_bij.Exp()).log_prob(rows)
    assert dist.Flow(base(2), bij.Exp()).log_prob(rows).isfinite().tolist() == [False, True]


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_an_elementwise_bijector_chains_with_an_autoregressive_one(name):
    rows = torch.tensor([[0.5, 0.2], [0.1, 0.7]])
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        their_flow(their_bij.Compose([their_ar(), getattr(their_bij, name)()]), 2).log_prob(rows)
    flow = dist.Flow(base(2), bij.Compose([AR(), getattr(bij, name)()]))
    disturb(flow)
    x, log_det = flow.bijector.inverse_and_log_det(rows)
    expected = [log_slope(flow.bijector.inverse, row) for row in rows]
    torch.testing.assert_close(log_det.detach(), torch.stack(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.log_prob(rows), base(2).log_prob(x) + log_det)


def test_ranges_that_do_not_chain_are_refused():
    their_flow(their_bij.Compose([their_bij.Tanh(), their_bij.Invert(their_bij.Exp())]), 2)
    with pytest.raises(DomainError, match="only takes numbers above 0"):
        bij.Compose([bij.Tanh(), bij.Invert(bij.Exp())])


def test_a_forgotten_argument_is_no_silent_plan():
    forgotten = their_dist.Flow(base(2))
    with pytest.raises(AttributeError, match="'Lazy' object has no attribute 'parameters'"):
        forgotten.parameters()
    with pytest.raises(ArgumentError, match="Flow: missing a required argument: 'bijector'"):
        dist.Flow(base(2))


def test_what_is_no_permutation_is_refused():
    # Two dimensions at one place: the Jacobian is not triangular, and the density it gives is none.
    their_flow(their_ar(permutation=torch.tensor([0, 0, 1])), 3).log_prob(torch.zeros(1, 3))
    with pytest.raises(PlanError, match="each whole number from 0 to 2 once"):
        params.DenseAutoregressive(permutation=torch.tensor([0, 0, 1]))


def test_a_wrong_value_is_refused_with_the_plan_and_not_at_the_first_pass():
    their_bij.Spline(order="cubic")
    with pytest.raises(PlanError, match="expected one of linear, quadratic"):
        bij.Spline(order="cubic")


def test_importing_draws_nothing_and_builds_nothing():
    program = (
        "import torch; a = torch.get_rng_state(); import {0}.bijectors; print(torch.equal(a, torch.get_rng_state()))"
    )
    said = [
        subprocess.run([sys.executable, "-W", "ignore", "-c", program.format(name)], capture_output=True, text=True)
        for name in ("flowtorch", "flowmodel")
    ]
    assert [run.stdout.strip() for run in said] == ["False", "True"]
