"""Standard normal numbers by seed, in native code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flowmodel.kernel import library


class NativeNoise:
    """The numbers that :func:`flowmodel.runtime.noise.standard_normal` defines, for many draws in one call.

    Args:
        instruction_set: one of :func:`flowmodel.kernel.library.available`.
    """

    def __init__(self, instruction_set: str) -> None:
        self._library = library.load(instruction_set)

    def __call__(self, draws: Sequence[tuple[int, int, int]], size: int, threads: int = 1) -> NDArray[np.float64]:
        """The rows of all draws, one after another: ``[N, size]``, N the sum of their counts.

        Args:
            draws: seed, index of the first row and number of rows of each, as 64-bit numbers that are not negative.
            size: numbers in a row, at least 1.
            threads: how many may compute in this process, all calls together; a call always has its own.
        """
        numbers = np.array(draws, np.uint64).reshape(-1, 3)
        rows = np.empty((int(numbers[:, 2].sum()), size))
        self._library.noise_normal(numbers.ctypes.data, len(numbers), size, threads, rows.ctypes.data)
        return rows
