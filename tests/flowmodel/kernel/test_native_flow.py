"""The native code answers as the eager flow does, and with the same bits whatever a row is computed beside.

Skipped only where no library could be compiled; then TorchScript answers everything.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from flows import PLANS, READING, contexts, normal, scorer_of, trained_flow

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.bijectors.elementwise_layer import ElementwiseBijector
from flowmodel.kernel import library
from flowmodel.kernel.native_flow import NativeFlow, NotCoveredError

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler when the package was installed")

AR = bij.AffineAutoregressive
SplineAR = bij.SplineAutoregressive
MADE = params.DenseAutoregressive

ROWS = 150
COLUMNS = (
    bij.Real(),
    bij.Positive(),
    bij.Bounded(-1, 3),
    bij.Integer(0),
    bij.Integer(1, 9),
    bij.Periodic(-3, 6),
    *15 * [bij.Real()],
)


def flow_rows_context(plan, size, context_shape, dtype):
    flow = trained_flow(plan, (size,), context_shape, dtype)
    context = contexts(ROWS, context_shape, torch.float64)
    with torch.no_grad():
        rows = flow.sample((ROWS,) if context is None else (), context).to(flow.data_dtype)
    return flow, rows, context


def numpy(tensor):
    return None if tensor is None else tensor.numpy()


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(
    ("name", "context_shape"),
    [(name, shape) for name in PLANS for shape in (None, (3,)) if not shape or name in READING],
)
def test_float64_answers_are_those_of_the_eager_flow(name, context_shape, size):
    flow, rows, context = flow_rows_context(PLANS[name], size, context_shape, torch.float64)
    scorer = scorer_of(flow)
    native = NativeFlow(scorer)
    with torch.no_grad():
        expected = flow.log_prob(rows, context).numpy()
    answered = native.log_prob(rows.numpy(), numpy(context))
    np.testing.assert_allclose(answered, expected, rtol=1e-9, atol=1e-9)
    # Out to six deviations.
    noise = np.random.default_rng(0).standard_normal((ROWS, size)) * np.linspace(0, 2, ROWS)[:, None]
    noise = noise.clip(-6, 6)
    with torch.no_grad():
        samples, log_prob = scorer.sample(torch.from_numpy(noise), context)
        again = flow.log_prob(samples, context).numpy()
    drawn, drawn_log_prob = native.sample(noise, numpy(context))
    np.testing.assert_allclose(drawn, samples.numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(drawn_log_prob, log_prob.numpy(), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(native.log_prob(samples.numpy(), numpy(context)), again, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", PLANS)
def test_float32_answers_are_as_near_to_the_exact_ones_as_those_of_torch(name):
    context_shape = (3,) if name in READING else None
    flow, rows, context = flow_rows_context(PLANS[name], 5, context_shape, torch.float32)
    scorer = scorer_of(flow)
    exact = copy.deepcopy(flow).double()
    with torch.no_grad():
        rows = rows.float()
        by_torch = scorer.log_prob(rows, context).double().numpy()
        expected = exact.log_prob(rows.double(), context).numpy()
    answered = NativeFlow(scorer).log_prob(rows.numpy(), numpy(context))
    inside = np.isfinite(expected) & np.isfinite(by_torch)
    assert inside.mean() > 0.9
    size = np.maximum(1, np.abs(expected[inside]))
    torch_off = (np.abs(by_torch - expected)[inside] / size).max()
    assert (np.abs(answered - expected)[inside] / size).max() <= 4 * torch_off + 64 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "plan",
    [
        AR(MADE((31, 23, 40), skip_connections=True)),
        bij.Invert(AR(MADE((40,), nonlinearity="softplus"))),
        bij.Compose(
            [bij.Invert(AR(MADE((40, 40), nonlinearity="tanh"))), bij.Permute(), AR(MADE((33,))), bij.Standardize()]
        ),
        bij.Invert(SplineAR(MADE((33, 25)), order="quadratic", bound=5.0)),
        bij.Compose([SplineAR(MADE((33, 25), skip_connections=True), count_bins=5), bij.Spline(), bij.Standardize()]),
        bij.Compose([bij.AffineCoupling(params.Dense((33, 40)), split=8), bij.Permute(), bij.SplineCoupling()]),
        bij.Compose([bij.Invert(AR(MADE((33,)))), bij.Standardize(), bij.Supports(COLUMNS)]),
        bij.Compose([AR(MADE((33,))), bij.ELU(), bij.Invert(bij.ELU()), bij.Sigmoid(), bij.Power(1.3)]),
    ],
    ids=["skip", "inverted", "stack", "quadratic-splines", "linear-splines", "coupling", "supports", "fixed"],
)
def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(plan, dtype):
    flow, rows, context = flow_rows_context(plan, 21, (3,), dtype)
    rows, context = rows.numpy(), context.numpy()
    fused = [name for name in library.available() if name != "generic"] or library.available()
    whole = NativeFlow(scorer_of(flow), fused[0]).log_prob(rows, context)
    noise = np.random.default_rng(0).standard_normal((ROWS, 21))
    samples, sampled = NativeFlow(scorer_of(flow), fused[0]).sample(noise, context)
    assert np.isfinite(whole).all()
    assert np.isfinite(sampled).all()
    for instruction_set in fused:
        native = NativeFlow(scorer_of(flow), instruction_set)
        for start, stop in [(0, ROWS), (0, 1), (7, 9), (3, 12), (20, 37), (40, 105), (85, 150)]:
            part = native.log_prob(rows[start:stop].copy(), context[start:stop].copy())
            np.testing.assert_array_equal(part, whole[start:stop], f"{instruction_set}, rows {start} to {stop}")
            drawn, drawn_log_prob = native.sample(noise[start:stop].copy(), context[start:stop].copy())
            np.testing.assert_array_equal(drawn, samples[start:stop])
            np.testing.assert_array_equal(drawn_log_prob, sampled[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("size", "hidden"),
    [
        (1, (3,)),
        (2, (64, 64)),
        (3, (4, 3)),
        (7, (7,)),
        (16, (17, 16)),
        (17, (130, 41)),
        (40, (40, 43, 200)),
        (150, (150, 151)),
    ],
)
@pytest.mark.parametrize("context_shape", [None, (2,)])
def test_blocks_of_degrees_and_panels_of_units_of_every_shape(size, hidden, context_shape, dtype):
    made = MADE(hidden, nonlinearity="tanh", skip_connections=size % 2 == 1)
    flow, rows, context = flow_rows_context(AR(made), size, context_shape, dtype)
    scorer, noise = scorer_of(flow), np.random.default_rng(0).standard_normal((ROWS, size))
    whole = [
        NativeFlow(scorer).log_prob(rows.numpy(), numpy(context)),
        *NativeFlow(scorer).sample(noise, numpy(context)),
    ]
    with torch.no_grad():
        expected = flow.log_prob(rows, context).numpy()
    np.testing.assert_allclose(whole[0], expected, rtol=1e-9 if dtype == torch.float64 else 1e-3)
    for instruction_set in [name for name in library.available() if name != "generic"]:
        native = NativeFlow(scorer, instruction_set)
        for part in (slice(0, 1), slice(20, 25), slice(30, 70), slice(0, ROWS)):
            given = None if context is None else context.numpy()[part]
            answers = [native.log_prob(rows.numpy()[part], given), *native.sample(noise[part], given)]
            for answer, of_all in zip(answers, whole, strict=True):
                np.testing.assert_array_equal(answer, of_all[part], f"{instruction_set}, {part}")


def test_more_than_a_thousand_dimensions_one_hidden_unit_for_each():
    torch.manual_seed(0)
    flow = dist.Flow(normal((1100,), torch.float64), AR(MADE((1101, 1100))))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        rows = flow.sample((70,))
        expected = flow.log_prob(rows).numpy()
    for instruction_set in library.available():
        native = NativeFlow(scorer_of(flow), instruction_set)
        answered = native.log_prob(rows.numpy())
        np.testing.assert_allclose(answered, expected, rtol=1e-9)
        if instruction_set != "generic":
            for count in (1, 20):
                np.testing.assert_array_equal(native.log_prob(rows.numpy()[:count]), answered[:count])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_has_the_same_bits_whatever_threads_compute_it(dtype):
    # So wide that a thread is worth its start, and no whole number of tiles.
    flow, _, _ = flow_rows_context(AR(MADE((256, 256))), 8, None, dtype)
    native = NativeFlow(scorer_of(flow))
    noise = np.random.default_rng(0).standard_normal((1003, 8))
    rows, log_prob = native.sample(noise)
    scored = native.log_prob(rows)
    assert np.isfinite(scored).all()
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(native.log_prob(rows, threads=threads), scored)
        for answer, alone in zip(native.sample(noise, threads=threads), (rows, log_prob), strict=True):
            np.testing.assert_array_equal(answer, alone)
    # Several calls at once, of different sizes, share the kept tiles one after the other.
    counts = [1, 5, 16, 70, 333, 1003] * 5
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda count: native.log_prob(rows[:count], threads=3), counts))
    for count, answer in zip(counts, answers, strict=True):
        np.testing.assert_array_equal(answer, scored[:count])


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh", "elu", "leaky_relu", "sigmoid", "softplus"])
@pytest.mark.parametrize("scale_fn", ["bounded", "exp", "softplus", "sigmoid"])
def test_every_activation_and_scale_at_float64_rounding(nonlinearity, scale_fn):
    plan = bij.Invert(AR(MADE((20, 20), nonlinearity=nonlinearity), scale_fn=scale_fn))
    flow, _, _ = flow_rows_context(plan, 4, None, torch.float64)
    # Far out, where exponentials overflow and underflow in what a naive formula computes.
    rows = torch.linspace(-40, 40, 401, dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.3, 0.7, 2.0])
    with torch.no_grad():
        expected = flow.log_prob(rows).numpy()
    for instruction_set in library.available():
        answered = NativeFlow(scorer_of(flow), instruction_set).log_prob(rows.numpy())
        np.testing.assert_allclose(answered, expected, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("bins", [2, 5, 1000])
def test_splines_at_their_knots_between_and_outside(bins, order, inverted):
    torch.manual_seed(0)
    plan = bij.Spline(count_bins=bins, bound=2.5, order=order)
    flow = dist.Flow(normal((1,)), bij.Invert(plan) if inverted else plan)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
        (layer,) = [part for part in flow.bijector.modules() if isinstance(part, ElementwiseBijector)]
        raw = layer.parameters_of_dims.values[0]
        lengths = 1e-3 + (1 - 1e-3 * bins) * torch.softmax(raw[:bins], 0)
        knots = 5 * torch.cumsum(lengths, 0)[:-1] - 2.5
        ends = torch.tensor([-np.inf, -7.0, -2.5, 2.5, 2.6, np.nan], dtype=torch.float64)
        x = torch.cat([ends, knots, knots + 1e-9, torch.linspace(-2.5, 2.5, 333, dtype=torch.float64)])[:, None]
        y, log_det = layer.forward_and_log_det(x)
        expected, expected_log_det = (y, log_det) if not inverted else layer.inverse_and_log_det(x)
        scored = flow.log_prob(y if not inverted else x)
    # The knots are sums of lengths, added in another order, and beside a steep knot the slope changes fast.
    for instruction_set in library.available():
        native = NativeFlow(scorer_of(flow), instruction_set)
        drawn, log_prob = native.sample(x.numpy())
        np.testing.assert_allclose(drawn, expected.numpy(), rtol=1e-10, atol=1e-10)
        base = flow.base_dist.log_prob(x).numpy()
        np.testing.assert_allclose(log_prob, base - expected_log_det.numpy(), rtol=1e-8, atol=1e-8)
        answered = native.log_prob(y.numpy() if not inverted else x.numpy())
        np.testing.assert_allclose(answered, scored.numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("direction", [AR, lambda *a, **k: bij.Invert(AR(*a, **k))])
@pytest.mark.parametrize("count", [3, 100])
def test_skip_connections_clamps_orders_and_contexts_together(direction, count):
    made = MADE((24, 17), permutation=(3, 0, 4, 1, 2), skip_connections=True)
    flow, rows, context = flow_rows_context(direction(made, clamp_values=True, scale_fn="exp"), 5, (3,), torch.float64)
    rows, context = rows[:count], context[:count]
    with torch.no_grad():
        expected = flow.log_prob(rows, context).numpy()
    answered = NativeFlow(scorer_of(flow)).log_prob(rows.numpy(), context.numpy())
    np.testing.assert_allclose(answered, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [2, 60])
@pytest.mark.parametrize("name", PLANS)
def test_a_row_that_is_not_finite_spoils_only_itself(name, count):
    flow, rows, _ = flow_rows_context(PLANS[name], 5, None, torch.float32)
    rows = rows.numpy()[:count]
    native = NativeFlow(scorer_of(flow))
    good = native.log_prob(rows)
    keep = np.arange(count) != 1
    for value in (np.nan, np.inf, -np.inf):
        bad = rows.copy()
        bad[1, 2] = value
        answered = native.log_prob(bad)
        assert np.isnan(answered[1]) if np.isnan(value) else not np.isfinite(answered[1])
        np.testing.assert_array_equal(answered[keep], good[keep])


def test_what_is_not_covered_is_said():
    scorer = scorer_of(trained_flow(AR(MADE((24,))), (3,)))
    scorer.bijector = torch.nn.Identity()
    with pytest.raises(NotCoveredError, match="Identity"):
        NativeFlow(scorer)
    scorer = scorer_of(trained_flow(AR(MADE((24,))), (3,)))
    scorer.base = torch.nn.Identity()
    with pytest.raises(NotCoveredError, match="base Identity"):
        NativeFlow(scorer)
    with pytest.raises(OSError, match="was not compiled"):
        library.load("mmx")
