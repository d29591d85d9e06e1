"""Standard normal noise that depends on the seed and the row alone, so that any replica draws the same samples."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**64 - 1

# Philox makes 4 words per counter step. A row owns whole steps, so that it can be found by its index alone.
_WORDS_PER_STEP = 4


class Draw(NamedTuple):
    """Rows ``start`` to ``start + count`` of the endless sample that ``seed`` stands for."""

    seed: int
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants of a draw


def standard_normal(seed: int, start: int, count: int, size: int) -> NDArray[np.float64]:
    """Independent standard normal numbers, row i of a seed being the same however it is asked for.

    The bits come from Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by the
    seed, its counter set by the row's index; two uniforms make two normals by the Box-Muller transform in float64.

    Args:
        seed: 0 to 2**64 - 1.
        start: index of the first row, at least 0.
        count: number of rows, at least 0.
        size: numbers in a row, at least 1.

    Returns:
        ``[count, size]``.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument is no whole number.

    Example:
        >>> whole = standard_normal(seed=7, start=0, count=100, size=3)
        >>> bool((standard_normal(seed=7, start=60, count=5, size=3) == whole[60:65]).all())
        True
    """
    check_draw(seed, start, count, size)
    steps_per_row = math.ceil(size / _WORDS_PER_STEP)
    generator = np.random.Philox(key=seed, counter=start * steps_per_row)
    words = generator.random_raw(count * steps_per_row * _WORDS_PER_STEP)
    pairs = words.reshape(count, 2 * steps_per_row, 2)
    # The top 53 bits, moved by half a step: never 0, so the logarithm is finite.
    uniform = ((pairs >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[..., 0]))
    angle = 2.0 * math.pi * uniform[..., 1]
    normal = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1)
    return np.ascontiguousarray(normal.reshape(count, _WORDS_PER_STEP * steps_per_row)[:, :size])


def normal_rows(draws: Sequence[Draw], size: int, threads: int = 1) -> NDArray[np.float64]:
    """The rows of all draws, one after another: ``[N, size]``, N the sum of their counts; by one thread.

    Raises:
        ValueError: a draw is out of range, or there is none.
        TypeError: a draw is not of whole numbers.
    """
    return np.concatenate([standard_normal(*draw, size) for draw in draws])


def check_draw(seed: int, start: int, count: int, size: int) -> None:
    """See whether :func:`standard_normal` can be asked for these numbers.

    Raises:
        ValueError: one is out of range.
        TypeError: one is no whole number.
    """
    seed, start, count, size = (operator.index(number) for number in (seed, start, count, size))
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed}; it must be 0 to 2**64 - 1")
    if start < 0 or count < 0 or size < 1:
        raise ValueError(f"start {start}, count {count}, size {size}: start and count must be at least 0, size 1")
    if start + count > MAX_SEED:
        raise ValueError(f"start {start} and count {count} end beyond 2**64 - 1, the last row of a seed")
