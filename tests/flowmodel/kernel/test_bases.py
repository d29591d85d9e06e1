"""Every base distribution in native code: its log-density, and its draws from given noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bases import BASES, base
from flows import scorer_of

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.kernel import library
from flowmodel.kernel.native_flow import NativeFlow

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler when the package was installed")


def flow_of(name: str, event_shape: tuple[int, ...], dtype: torch.dtype) -> dist.Flow:
    return dist.Flow(base(name, event_shape, dtype), bij.Permute(tuple(range(int(np.prod(event_shape))))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event_shape", [(1,), (4,), (2, 3)])
@pytest.mark.parametrize("name", BASES)
def test_a_base_answers_as_torch_does(name, event_shape, dtype):
    scorer = scorer_of(flow_of(name, event_shape, dtype))
    size, tolerance = int(np.prod(event_shape)), 1e-11 if dtype == torch.float64 else 1e-5
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((333, size)) * 10.0 ** generator.uniform(-3, 12, (333, 1))
    rows[::7, 0] = [np.nan, np.inf, -np.inf, 0.0] * 12
    rows[200:] = generator.standard_normal((133, size))
    noise = generator.standard_normal((333, scorer.noise_size)) * np.linspace(0, 9, 333)[:, None]
    with torch.no_grad():
        expected = scorer.log_prob(torch.from_numpy(rows)).numpy()
        draws, log_prob = (answer.numpy() for answer in scorer.sample(torch.from_numpy(noise)))
    assert np.isfinite(expected).sum() > 20
    for instruction_set in library.available():
        native = NativeFlow(scorer, instruction_set)
        np.testing.assert_allclose(native.log_prob(rows), expected, rtol=tolerance, atol=tolerance)
        drawn, drawn_log_prob = native.sample(noise)
        np.testing.assert_allclose(drawn, draws, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(drawn_log_prob, log_prob, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_base_ends_exactly_where_it_ends(dtype):
    flow = flow_of("uniform", (4,), dtype)
    low, high = (getattr(flow.base, name).numpy() for name in ("low", "high"))
    native = NativeFlow(scorer_of(flow))
    rows = np.stack([low, np.nextafter(low, low - 1), high, np.nextafter(high, low), 0.5 * (low + high)])
    assert np.isfinite(native.log_prob(rows)).tolist() == [True, False, False, True, True]
    drawn, log_prob = native.sample(np.array([[-40.0] * 4, [40.0] * 4, [-9.0] * 4, [9.0] * 4]))
    assert ((drawn >= low) & (drawn < high)).all()
    assert np.isfinite(log_prob).all()


@pytest.mark.parametrize("name", BASES)
def test_a_draw_has_the_same_bits_whatever_it_is_drawn_beside(name):
    scorer = scorer_of(flow_of(name, (4,), torch.float32))
    fused = [name for name in library.available() if name != "generic"] or library.available()
    noise = np.random.default_rng(0).standard_normal((150, scorer.noise_size))
    rows, log_prob = NativeFlow(scorer, fused[0]).sample(noise)
    for instruction_set in fused:
        native = NativeFlow(scorer, instruction_set)
        for start, stop in [(0, 150), (0, 1), (7, 9), (20, 37), (85, 150)]:
            drawn, drawn_log_prob = native.sample(noise[start:stop].copy())
            np.testing.assert_array_equal(drawn, rows[start:stop])
            np.testing.assert_array_equal(drawn_log_prob, log_prob[start:stop])
            np.testing.assert_array_equal(native.log_prob(drawn), log_prob[start:stop])
