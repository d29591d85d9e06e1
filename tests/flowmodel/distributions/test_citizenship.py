"""The flow as a citizen of torch: moved, saved, copied, differentiated, compiled and exported."""

from __future__ import annotations

import copy

import pytest
import torch
from bases import BASES, base
from flows import contexts, normal, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.program import LogProb, Sample

# torch.compile itself makes an instance of autograd.Function when it traces one, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")

AR = bij.AffineAutoregressive(params.DenseAutoregressive((12, 12)))
PLANS = {
    "affine autoregressive": AR,
    "inverted": bij.Invert(AR),
    "stack": bij.Compose([AR, bij.Permute((2, 0, 1)), bij.Invert(AR), bij.Standardize()]),
}
SUPPORTS = (bij.Positive(), bij.Integer(0), bij.Periodic(0, 24))
SUPPORTED = bij.Compose([bij.Invert(AR), bij.Standardize(), bij.Supports(SUPPORTS)])
CONTEXT_SHAPES = [None, (2,)]
# Eager, compiled and exported do the same sums in another order.
EXACT = {"rtol": 1e-9, "atol": 1e-9}
COUNTS = ((7, "default"), (30, "fail_on_recompile"))
"""Rows of each call of what is compiled: once for any number of them."""


def rows_for(flow, count=7):
    return 3 * torch.randn(count, 3, dtype=flow.data_dtype) + 10


def of_any_count(rows):
    """Compiled for any number of rows; where the program would hold for these alone, compiling fails."""
    torch._dynamo.mark_dynamic(rows, 0)
    return rows


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("move", [lambda flow: flow.to(torch.float64), lambda flow: flow.double()])
def test_a_flow_moved_to_float64_is_float64_throughout(name, context_shape, move):
    flow = trained_flow(PLANS[name], (3,), context_shape, torch.float32)
    single = copy.deepcopy(flow)
    assert move(flow) is flow
    floating = [value for value in flow.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float64}
    context = contexts(7, context_shape, torch.float64)
    rows = rows_for(flow)
    assert flow.dtype == torch.float64
    assert flow.log_prob(rows, context).dtype == torch.float64
    assert flow.sample((7,), context).dtype == torch.float64
    assert flow.rsample((7,), context).dtype == torch.float64
    # Round trip and density hold to float64, so nothing on the way is of float32.
    noise = flow.bijector.inverse(rows, flow.standard_context(context))
    torch.testing.assert_close(flow.bijector(noise, flow.standard_context(context)), rows, **EXACT)
    torch.testing.assert_close(
        single.log_prob(rows.to(single.data_dtype), context).double(),
        flow.log_prob(rows, context),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", BASES)
def test_every_tensor_moves_with_the_flow(name):
    flow = dist.Flow(base(name, (3,)), PLANS["stack"], context_shape=(2,)).to("meta")
    tensors = [*flow.parameters(), *flow.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    rows, context = torch.empty(5, 3, device="meta", dtype=torch.float64), torch.empty(5, 2, device="meta")
    log_prob = flow.log_prob(rows, context)
    assert (log_prob.shape, log_prob.device.type, log_prob.dtype) == ((5,), "meta", torch.float64)


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("name", PLANS)
def test_a_state_dict_brings_the_whole_model_to_a_fresh_flow(name, context_shape, tmp_path):
    flow = trained_flow(PLANS[name], (3,), context_shape)
    torch.save(flow.state_dict(), tmp_path / "state.pt")
    fresh = dist.Flow(normal((3,)), PLANS[name], context_shape=context_shape)
    rows, context = rows_for(flow), contexts(7, context_shape, torch.float64)
    assert not torch.equal(fresh.log_prob(rows, context), flow.log_prob(rows, context))
    missing = fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (missing.missing_keys, missing.unexpected_keys) == ([], [])
    assert torch.equal(fresh.log_prob(rows, context), flow.log_prob(rows, context))


@pytest.mark.parametrize("name", PLANS)
def test_a_deep_copy_shares_nothing(name):
    flow = trained_flow(PLANS[name], (3,), (2,))
    rows, context = rows_for(flow), contexts(7, (2,), torch.float64)
    before = flow.log_prob(rows, context).detach()
    copied = copy.deepcopy(flow)
    assert torch.equal(copied.log_prob(rows, context), before)
    theirs = {tensor.data_ptr() for tensor in [*copied.parameters(), *copied.buffers()] if tensor.numel()}
    ours = {tensor.data_ptr() for tensor in [*flow.parameters(), *flow.buffers()] if tensor.numel()}
    assert theirs & ours == set()
    with torch.no_grad():
        for tensor in [*copied.parameters(), *copied.buffers()]:
            tensor.fill_(1)
    assert torch.equal(flow.log_prob(rows, context), before)


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("direction", ["log_prob", "rsample"])
def test_gradients_reach_every_parameter(name, context_shape, direction):
    flow = trained_flow(PLANS[name], (3,), context_shape)
    context = contexts(64, context_shape, torch.float64)
    value = flow.log_prob(rows_for(flow, 64), context) if direction == "log_prob" else flow.rsample((64,), context)
    (value**2).sum().backward()
    without = [key for key, value in flow.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert without == []


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("name", PLANS)
def test_compiled_log_prob_and_its_gradients_are_the_eager_ones(name, context_shape):
    flow = trained_flow(PLANS[name], (3,), context_shape)
    torch.compiler.reset()
    compiled = torch.compile(flow.log_prob, backend="aot_eager", fullgraph=True)
    for count, stance in COUNTS:
        rows, context = rows_for(flow, count), contexts(count, context_shape, torch.float64)
        rows, context = of_any_count(rows), context if context is None else of_any_count(context)
        with torch.compiler.set_stance(stance):
            answer = compiled(rows, context)
        torch.testing.assert_close(answer, flow.log_prob(rows, context), **EXACT)
    compiled_grads = torch.autograd.grad(compiled(rows, context).sum(), list(flow.parameters()))
    grads = torch.autograd.grad(flow.log_prob(rows, context).sum(), list(flow.parameters()))
    for ours, theirs in zip(compiled_grads, grads, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
def test_supports_compiled_and_exported_answer_as_the_flow_does(context_shape):
    flow = trained_flow(SUPPORTED, (3,), context_shape)
    torch.compiler.reset()
    compiled = torch.compile(flow.log_prob, backend="aot_eager", fullgraph=True)
    given = () if context_shape is None else (contexts(8, context_shape, torch.float64),)
    batch = ({0: torch.export.Dim("rows")},) * (1 + len(given))
    program = torch.export.export(LogProb(flow), (flow.sample((8,), *given), *given), dynamic_shapes=batch).module()
    for count, stance in COUNTS:
        given = () if context_shape is None else (of_any_count(contexts(count, context_shape, torch.float64)),)
        rows = of_any_count(flow.sample((count,), *given))
        rows[0, 0], rows[1, 2] = -1.0, 1e6
        expected = flow.log_prob(rows, *given)
        assert float(expected[0].detach()) == -float("inf")
        assert bool(expected[1:].isfinite().all())
        with torch.compiler.set_stance(stance):
            answer = compiled(rows, *given)
        torch.testing.assert_close(answer, expected, **EXACT)
        torch.testing.assert_close(program(rows, *given), expected, **EXACT)
    compiled_grads = torch.autograd.grad(compiled(rows, *given)[1:].sum(), list(flow.parameters()))
    grads = torch.autograd.grad(flow.log_prob(rows, *given)[1:].sum(), list(flow.parameters()))
    for ours, theirs in zip(compiled_grads, grads, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("name", PLANS)
def test_compiled_samples_are_the_eager_ones(name, context_shape):
    flow = trained_flow(PLANS[name], (3,), context_shape)
    torch.compiler.reset()
    context = contexts(7, context_shape, torch.float64)
    for draw in (flow.sample, flow.rsample):
        # This backend keeps torch's generator, so that a seed draws the same numbers.
        compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
        torch.manual_seed(3)
        expected = draw((7,), context)
        torch.manual_seed(3)
        torch.testing.assert_close(compiled((7,), context), expected, **EXACT)


@pytest.mark.parametrize("context_shape", CONTEXT_SHAPES)
@pytest.mark.parametrize("name", PLANS)
def test_exported_programs_answer_as_the_flow_does(name, context_shape, tmp_path):
    flow = trained_flow(PLANS[name], (3,), context_shape)
    batch = {0: torch.export.Dim("rows")}

    def exported(module, example, path):
        given = (example,) if context_shape is None else (example, contexts(8, context_shape, torch.float64))
        torch.export.save(torch.export.export(module, given, dynamic_shapes=(batch,) * len(given)), path)
        return torch.export.load(path).module()

    log_prob = exported(LogProb(flow), rows_for(flow, 8), tmp_path / "log_prob.pt2")
    sample = exported(Sample(flow), torch.randn(8, 3, dtype=torch.float64), tmp_path / "sample.pt2")
    for count in (1, 8, 50):
        context = contexts(count, context_shape, torch.float64)
        given = () if context is None else (context,)
        rows, noise = rows_for(flow, count), torch.randn(count, 3, dtype=torch.float64)
        torch.testing.assert_close(log_prob(rows, *given), flow.log_prob(rows, context), **EXACT)
        expected = flow.bijector(noise, flow.standard_context(context))
        torch.testing.assert_close(sample(noise, *given), expected, **EXACT)


@pytest.mark.parametrize("name", BASES)
def test_every_base_is_compiled_and_exported(name):
    flow = dist.Flow(base(name, (3,)), bij.Invert(AR))
    torch.compiler.reset()
    rows = flow.sample((8,))
    compiled = torch.compile(flow.log_prob, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows), flow.log_prob(rows), **EXACT)
    module = Sample(flow)
    noise = torch.randn(8, module.noise_size, dtype=torch.float64)
    batch = ({0: torch.export.Dim("rows")},)
    sample = torch.export.export(module, (noise,), dynamic_shapes=batch).module()
    torch.testing.assert_close(sample(noise[:5]), module(noise[:5]), **EXACT)
    log_prob = torch.export.export(LogProb(flow), (rows,), dynamic_shapes=batch).module()
    torch.testing.assert_close(log_prob(rows[:5]), flow.log_prob(rows[:5]), **EXACT)
