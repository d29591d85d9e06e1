"""Affine autoregressive layers by native code: the numbers, gradients and refusals of torch, and a row's own bits.

float64 is held to 1e-9 of the largest number of each result; rounding is near 1e-13. Where there was no compiler there
is nothing to compare, and these tests are skipped.
"""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
from flows import contexts, trained_flow

import flowmodel.bijectors as bij
import flowmodel.parameters as params
from flowmodel.bijectors import autoregressive_maps, native_walk
from flowmodel.errors import ArgumentError
from flowmodel.kernel import library
from flowmodel.kernel.native_layer import NativeLayer

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler when the package was installed")

MADE = params.DenseAutoregressive
AR = bij.AffineAutoregressive

PLANS = {
    "relu": AR(MADE((24, 20))),
    "tanh": AR(MADE((24,), nonlinearity="tanh"), scale_fn="exp"),
    "elu": AR(MADE((24, 20), nonlinearity="elu"), scale_fn="softplus"),
    "leaky": AR(MADE((31, 17, 23), nonlinearity="leaky_relu"), scale_fn="sigmoid"),
    "sigmoid": AR(MADE((24, 40), nonlinearity="sigmoid", skip_connections=True), scale_fn="softplus"),
    "softplus": AR(MADE((70, 90), nonlinearity="softplus", permutation=(3, 0, 4, 1, 2)), scale_fn="sigmoid"),
    "clamped": AR(MADE((24,)), clamp_values=True, log_scale_min_clip=-0.2, log_scale_max_clip=0.3),
    "everything": AR(MADE((24, 30), "tanh", (4, 2, 0, 1, 3), skip_connections=True), scale_fn="exp", clamp_values=True),
}
MAPS = {"push": autoregressive_maps.push, "pull": autoregressive_maps.pull}


def layer_of(plan, context_shape=None, dtype=torch.float64, size=5):
    return trained_flow(plan, (size,), context_shape, dtype).bijector


def close(actual, expected, tolerance=1e-9):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1e-3, float(other.detach().abs().max())))


def test_layers_in_use_are_native():
    layer = layer_of(AR())
    assert layer.native._layer(torch.float64) is not None
    assert layer.native._layer(torch.float32) is not None
    assert (
        layer_of(bij.SplineAutoregressive()).native.map(layer.made, layer.walk, True, torch.randn(2, 5), None) is None
    )


@pytest.mark.parametrize("instruction_set", library.available())
@pytest.mark.parametrize("rows", [1, 20, 70, 300])
@pytest.mark.parametrize("context_shape", [None, (3,)])
@pytest.mark.parametrize("direction", MAPS)
@pytest.mark.parametrize("name", PLANS)
def test_values_and_every_gradient_are_those_of_torch(name, direction, context_shape, rows, instruction_set):
    layer = layer_of(PLANS[name], context_shape)
    layer.native._layers[torch.float64] = NativeLayer(layer.native._shape, torch.float64, instruction_set)
    given = torch.randn(rows, 5, dtype=torch.float64)
    context = None if context_shape is None else torch.randn(rows, *context_shape, dtype=torch.float64)
    if direction == "pull":
        with torch.no_grad():
            given = autoregressive_maps.push(layer.made, layer.walk, given, context)[0]
    given.requires_grad_()
    leaves = [given, *layer.parameters()] if context is None else [given, context.requires_grad_(), *layer.parameters()]
    expected = MAPS[direction](layer.made, layer.walk, given, context)
    actual = getattr(layer, direction)(given, context)
    assert "Native" in actual[0].grad_fn.name()
    close(actual, expected)
    weights = torch.randn_like(given)
    gradients = [
        torch.autograd.grad((weights * value).sum() + log_det.cos().sum(), leaves)
        for value, log_det in (actual, expected)
    ]
    close(*gradients)
    for part in range(2):
        only = [torch.autograd.grad(r[part].sum(), leaves) for r in map_twice(layer, direction, given, context)]
        close(*only)


def map_twice(layer, direction, given, context):
    return getattr(layer, direction)(given, context), MAPS[direction](layer.made, layer.walk, given, context)


@pytest.mark.parametrize("direction", MAPS)
def test_only_what_is_wanted_gets_a_gradient(direction):
    layer = layer_of(PLANS["relu"], (3,))
    given, context = torch.randn(9, 5, dtype=torch.float64), contexts(9, (3,), torch.float64)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert not getattr(layer, direction)(given, context)[0].requires_grad
    for leaf in (given, context, layer.made.biases[1], layer.made.weights[2]):
        leaf.requires_grad_()
        actual, expected = (r[0].square().sum() + r[1].sum() for r in map_twice(layer, direction, given, context))
        close(torch.autograd.grad(actual, leaf), torch.autograd.grad(expected, leaf))
        leaf.requires_grad_(False)


@pytest.mark.parametrize("direction", MAPS)
def test_masked_weights_are_never_read_and_their_gradient_is_zero(direction):
    layer = layer_of(PLANS["everything"])
    given = torch.randn(70, 5, dtype=torch.float64)
    before = getattr(layer, direction)(given, None)
    with torch.no_grad():
        for weight, mask in zip(layer.made.weights, layer.made.masks(), strict=True):
            weight[mask == 0] = float("inf")
    after = getattr(layer, direction)(given, None)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    (after[0].sum() + after[1].sum()).backward()
    for weight, mask in zip(layer.made.weights, layer.made.masks(), strict=True):
        assert bool((weight.grad[mask == 0] == 0).all())
        assert bool((weight.grad[mask == 1] != 0).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", MAPS)
def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(direction, dtype):
    layer = layer_of(AR(MADE((100, 90), "tanh")), (3,), dtype, size=21)
    given, context = torch.randn(150, 21, dtype=dtype, requires_grad=True), contexts(150, (3,), dtype)

    def row_results(rows, threads):
        torch.set_num_threads(threads)
        value, log_det = getattr(layer, direction)(given[rows], context[rows])
        (bar,) = torch.autograd.grad(value.square().sum() + log_det.sum(), given)
        return value, log_det, bar[rows]

    threads = torch.get_num_threads()
    try:
        whole = row_results(slice(0, 150), 1)
        for start, stop, count in [(0, 150, 2), (0, 1, 1), (3, 12, 1), (20, 55, 1), (40, 150, 3)]:
            part = row_results(slice(start, stop), count)
            assert all(torch.equal(one, other[start:stop]) for one, other in zip(part, whole, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_sums_over_rows_repeat_their_bits_with_the_same_threads_and_agree_with_others():
    layer = layer_of(AR(MADE((256, 256))), None, torch.float32, size=21)
    rows, threads = torch.randn(1000, 21), torch.get_num_threads()
    gradients = []
    try:
        for count in (1, 3, 1, 3):
            torch.set_num_threads(count)
            value, log_det = layer.pull(rows, None)
            gradients.append(torch.autograd.grad(value.square().mean() - log_det.mean(), list(layer.parameters())))
    finally:
        torch.set_num_threads(threads)
    one, three, one_again, three_again = gradients
    assert all(torch.equal(a, b) for a, b in zip(one, one_again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(three, three_again, strict=True))
    close(three, one, 1e-5)


def test_torch_s_threads_and_ones_of_its_own_find_the_same_bits():
    layer = layer_of(AR(MADE((256, 256))), None, torch.float32, size=21)
    rows, threads = torch.randn(1000, 21), torch.get_num_threads()
    native = library.load(library.available()[0])
    crew = library.torch_crew()
    assert crew is not None or "OpenMP" not in torch.__config__.parallel_info()
    found = []
    try:
        torch.set_num_threads(3)
        for parallel in (crew, None):
            native.layer_crew(parallel)
            value, log_det = layer.pull(rows, None)
            found.append(
                [value, *torch.autograd.grad(value.square().mean() - log_det.mean(), list(layer.parameters()))]
            )
    finally:
        native.layer_crew(crew)
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_dense_direction_may_be_differentiated_again():
    layer = layer_of(PLANS["tanh"], (3,))
    given = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    context = contexts(4, (3,), torch.float64).requires_grad_()
    leaves = [given, context, *layer.parameters()]
    second = []
    for value, log_det in map_twice(layer, "push", given, context):
        first = torch.autograd.grad(value.square().sum() + log_det.sum(), leaves, create_graph=True)
        second.append(torch.autograd.grad(sum(bar.square().sum() for bar in first), leaves))
    close(*second)


def test_a_batch_of_gradients_and_transforms_of_functions_are_torchs():
    layer = layer_of(PLANS["tanh"])
    given = torch.randn(5, dtype=torch.float64)

    def forward(x):
        return layer.forward(x)

    expected = torch.autograd.functional.jacobian(forward, given)
    close([torch.autograd.functional.jacobian(forward, given, vectorize=True)], [expected])
    close([torch.func.jacrev(forward)(given)], [expected])
    close([torch.func.jacfwd(forward)(given)], [expected])
    batch = torch.randn(3, 5, dtype=torch.float64)
    close([torch.func.vmap(forward)(batch)], [forward(batch)])
    tangent = torch.randn_like(given)
    with torch.autograd.forward_ad.dual_level():
        dual = forward(torch.autograd.forward_ad.make_dual(given, tangent))
        close([torch.autograd.forward_ad.unpack_dual(dual).tangent], [expected @ tangent])


@pytest.mark.parametrize("direction", MAPS)
def test_gradients_can_be_taken_twice_and_not_after_a_weight_has_changed(direction):
    layer = layer_of(PLANS["relu"])
    value, log_det = getattr(layer, direction)(torch.randn(40, 5, dtype=torch.float64), None)
    loss, leaves = value.square().sum() + log_det.sum(), list(layer.parameters())
    first, again = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    with torch.no_grad():
        layer.made.weights[0].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaves)


def test_a_weight_changed_in_place_is_seen_by_the_next_call():
    layer = layer_of(PLANS["relu"])
    rows = torch.randn(40, 5, dtype=torch.float64)
    layer.pull(rows, None)
    with torch.no_grad():
        layer.made.weights[1].mul_(1.3)
    actual, expected = map_twice(layer, "pull", rows, None)
    close(actual, expected)


@pytest.mark.parametrize("given", ["turned", "expanded", "strided"])
def test_rows_may_lie_in_memory_in_any_way(given):
    layer = layer_of(PLANS["relu"])
    rows = {
        "turned": torch.randn(5, 33, dtype=torch.float64).T,
        "expanded": torch.randn(1, 5, dtype=torch.float64).expand(33, 5),
        "strided": torch.randn(66, 10, dtype=torch.float64)[::2, ::2],
    }[given]
    with torch.no_grad():
        close(*map_twice(layer, "pull", rows, None))


def test_no_rows_are_answered_with_none():
    value, log_det = layer_of(PLANS["relu"]).pull(torch.empty(0, 5, dtype=torch.float64), None)
    assert (value.shape, log_det.shape) == ((0, 5), (0,))


def test_copies_and_pickles_decide_anew():
    layer = layer_of(PLANS["relu"])
    rows = torch.randn(7, 5, dtype=torch.float64)
    expected = layer.pull(rows, None)[0]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not twin.native._layers
        assert torch.equal(twin.pull(rows, None)[0], expected)
        assert twin.native._layers


def test_the_switch(monkeypatch):
    monkeypatch.setenv("FLOWMODEL_NATIVE", "0")
    assert library.available() == []
    layer = layer_of(PLANS["relu"])
    rows = torch.randn(7, 5, dtype=torch.float64)
    assert "InvertByDegree" in repr(layer.pull(rows, None)[1].grad_fn)
    monkeypatch.setenv("FLOWMODEL_NATIVE", "1")
    assert "InvertByDegree" in repr(layer.pull(rows, None)[1].grad_fn), "decided at the first use"
    assert "NativePull" in repr(copy.deepcopy(layer).pull(rows, None)[1].grad_fn)
    monkeypatch.setenv("FLOWMODEL_NATIVE", "yes")
    with pytest.raises(ArgumentError, match=r"FLOWMODEL_NATIVE='yes' given; expected 1 \(the default\), or 0"):
        copy.deepcopy(layer).pull(rows, None)


@pytest.mark.parametrize("wrong", ["forward", "backward"])
def test_native_code_that_disagrees_is_not_used(wrong, monkeypatch, caplog):
    right = getattr(NativeLayer, wrong)

    def spoilt(self, *arguments, **named):
        results = right(self, *arguments, **named)
        results[0].mul_(1.0 + 1e-2)
        return results

    monkeypatch.setattr(NativeLayer, wrong, spoilt)
    native_walk._agreeing.cache_clear()
    layer = layer_of(PLANS["relu"])
    rows = torch.randn(7, 5, dtype=torch.float64)
    try:
        with caplog.at_level(logging.WARNING):
            assert "InvertByDegree" in repr(layer.pull(rows, None)[1].grad_fn)
    finally:
        native_walk._agreeing.cache_clear()
    assert "torch computes the autoregressive layers of 5 dimensions" in caplog.text


def test_the_check_leaves_the_generator_alone_and_works_in_inference_mode():
    native_walk._agreeing.cache_clear()
    layer = layer_of(PLANS["relu"])
    rows = torch.randn(7, 5, dtype=torch.float64)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        actual, expected = map_twice(layer, "pull", rows, None)
    close(actual, expected)
    assert layer.native._layers[torch.float64] is not None
    assert torch.equal(torch.random.get_rng_state(), before)
