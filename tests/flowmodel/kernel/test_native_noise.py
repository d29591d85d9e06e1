"""Native noise is the noise that the runtime defines, to the last places of float64, however it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from flowmodel.kernel import library
from flowmodel.kernel.native_noise import NativeNoise
from flowmodel.runtime import native
from flowmodel.runtime.noise import MAX_SEED, Draw, normal_rows

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler when the package was installed")

DRAWS = {
    "one row": [Draw(7, 0, 1)],
    "many rows": [Draw(7, 0, 3000)],
    "many draws": [Draw(seed, seed * 13, seed % 5) for seed in range(40)],
    "the last rows of the last seed": [Draw(MAX_SEED, MAX_SEED - 300, 300)],
    "rows past 64 bits of steps": [Draw(1, 2**63, 50), Draw(2**63, 10**18, 50)],
}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 21, 260, 1001])
@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_numpy_s_to_rounding(name: str, size: int) -> None:
    draws = DRAWS[name]
    expected = normal_rows(draws, size)
    for instruction_set in library.available():
        noise = NativeNoise(instruction_set)
        one = noise(draws, size)
        # Logarithm, root, sine and their product: a few roundings of numbers below 8.6.
        np.testing.assert_allclose(one, expected, rtol=1e-14, atol=1e-15)
        np.testing.assert_array_equal(noise(draws, size, threads=3), one)


def test_bits_do_not_depend_on_the_registers_width() -> None:
    fused = [name for name in library.available() if name != "generic"]
    found = [NativeNoise(name)(DRAWS["many rows"], 7) for name in fused]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_row_s_bits_do_not_depend_on_how_it_is_asked_for() -> None:
    noise = NativeNoise(library.available()[0])
    whole = noise([Draw(3, 0, 500)], 6)
    for start, count in [(0, 1), (1, 1), (17, 33), (499, 1)]:
        np.testing.assert_array_equal(
            noise([Draw(9, 2, 5), Draw(3, start, count)], 6)[5:], whole[start : start + count]
        )


def test_numpy_makes_the_noise_where_native_code_finds_other_numbers(caplog, monkeypatch) -> None:
    assert native.native_noise() is not None
    monkeypatch.setattr(NativeNoise, "__call__", lambda self, draws, size, threads=1: normal_rows(draws, size) + 1e-9)
    native._agreeing_noise.cache_clear()
    try:
        assert native.native_noise() is None
    finally:
        native._agreeing_noise.cache_clear()
    assert "numpy makes the noise" in caplog.text


def test_without_native_code_there_is_no_native_noise(monkeypatch) -> None:
    monkeypatch.setenv("FLOWMODEL_NATIVE", "0")
    assert native.native_noise() is None
