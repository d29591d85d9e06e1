"""What FlowTorch's own tests and example promise, kept by this library under FlowTorch's names.

Where FlowTorch asserts its cache (``log_detJ`` on a tensor) or ``Invert``'s unnegated log-determinant, the true
statement stands here: values come in pairs, and the inverse has the negative log-determinant. FlowTorch runs ``Power``
on normal noise, half of which it cannot take; here the noise is a gamma's.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch

import flowmodel.bijectors as ours
import flowmodel.distributions as our_distributions
import flowmodel.parameters as our_parameters


@pytest.fixture
def flowtorch(monkeypatch):
    names = {"": "flowmodel", ".bijectors": "flowmodel.bijectors"}
    names |= {".parameters": "flowmodel.parameters", ".distributions": "flowmodel.distributions"}
    for name, module in names.items():
        monkeypatch.setitem(sys.modules, f"flowtorch{name}", importlib.import_module(module))


def base_for(plan_class: type) -> torch.distributions.Distribution:
    shape = max(plan_class.domain.event_dim, 1) * [3]
    if plan_class is ours.Power:
        inner = torch.distributions.Gamma(torch.full(shape, 3.0).double(), torch.ones(shape).double())
    else:
        inner = torch.distributions.Normal(torch.zeros(shape).double(), torch.ones(shape).double())
    return torch.distributions.Independent(inner, len(shape))


@pytest.mark.parametrize(("name", "plan_class"), ours.standard_bijectors)
def test_jacobian_and_inverse(flowtorch, name, plan_class):
    import flowtorch.distributions as dist

    flow = dist.Flow(base_for(plan_class), plan_class)
    bijector = flow.bijector
    x = torch.distributions.transform_to(bijector.domain)(torch.randn(*flow.event_shape).double())
    y = bijector.forward(x)
    assert bijector.domain.event_dim == len(flow.event_shape)
    jacobian = torch.autograd.functional.jacobian(bijector.forward, x)
    log_det = bijector.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)
    back, inverse_log_det = bijector.inverse_and_log_det(y)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


def test_invert_has_the_negative_log_determinant(flowtorch):
    import flowtorch.bijectors as bij
    import flowtorch.parameters as params

    plan = bij.Compose(bijectors=[bij.AffineAutoregressive(params.DenseAutoregressive()) for _ in range(2)])
    bijector, inverse = plan(shape=torch.Size([16])), bij.Invert(plan)(shape=torch.Size([16]))
    with torch.no_grad():
        for parameter in bijector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    inverse.load_state_dict(bijector.state_dict(prefix="inner."))
    x = torch.randn(50, 16)
    y = inverse.forward(x)
    torch.testing.assert_close(y, bijector.inverse(x))
    expected = -bijector.log_abs_det_jacobian(y, x)
    assert float(expected.detach().abs().max()) > 1e-2
    torch.testing.assert_close(inverse.log_abs_det_jacobian(x, y), expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_a_composition(flowtorch):
    import flowtorch.bijectors as bij
    import flowtorch.distributions as dist

    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(5), torch.ones(5)), 1)
    flow = dist.Flow(base, bij.Compose(bijectors=[bij.AffineAutoregressive() for _ in range(3)]))
    flow.log_prob(torch.randn(100, 5)).sum().backward()
    assert max(float(p.grad.abs().sum()) for p in flow.parameters() if p.grad is not None) > 1e-3


def test_its_example_learns(flowtorch):
    import flowtorch.bijectors as bij
    import flowtorch.distributions as dist
    import flowtorch.parameters as params

    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    target = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2) + 5, torch.ones(2) * 0.5), 1)
    flow = dist.Flow(base, bij.AffineAutoregressive(params_fn=params.DenseAutoregressive(hidden_dims=(32,))))
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    for _ in range(400):
        optimiser.zero_grad()
        loss = -flow.log_prob(target.sample((500,))).mean()
        loss.backward()
        optimiser.step()
    y = target.sample((5000,))
    assert abs(float((target.log_prob(y) - flow.log_prob(y)).detach().mean())) < 0.05


def test_every_name_is_there_and_importing_draws_nothing():
    names = {name for name, _ in ours.standard_bijectors + ours.meta_bijectors}
    theirs = """Affine AffineAutoregressive AffineFixed ELU Exp LeakyReLU Permute Power Sigmoid Softplus Spline
    SplineAutoregressive Tanh Elementwise Autoregressive Fixed Bijector Compose Invert VolumePreserving"""
    assert names >= set(theirs.split())
    assert all(hasattr(our_parameters, name) for name in ("Parameters", "DenseAutoregressive", "Tensor"))
    assert all(hasattr(our_distributions, name) for name in ("Flow", "NealsFunnel"))
    program = (
        "import torch; a = torch.get_rng_state(); import flowmodel.bijectors; "
        "print(torch.equal(a, torch.get_rng_state()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
