"""Whether what a process holds stays level: samples in, a verdict out."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

MEGA = 1024**2

PARTS = 5
"""The first fifth is for caches, pools and arenas to fill; the second one is compared with the last."""

FEWEST = 10 * PARTS
"""Samples below which nothing is judged."""

_POINTS = 400


@dataclass(frozen=True)
class Tolerance:
    """How much more the last fifth may hold than the second: the greater of a share and an amount.

    Attributes:
        share: of what the second fifth held.
        amount: in the unit of the samples.
        reason: why so much and no less.
    """

    share: float
    amount: float
    reason: str

    def of(self, level: float) -> float:
        return max(self.share * level, self.amount)


@dataclass(frozen=True)
class Verdict:
    """What a series did.

    Attributes:
        name: what was sampled.
        before: median of the second fifth.
        after: median of the last fifth.
        allowed: how much more ``after`` may be.
        rising: by how much the series would rise from the second fifth to the last at the slope of its last two
            fifths, the median of the slopes between all pairs of samples (Theil and Sen), which outliers do not move.
        judged: whether there were samples enough.
    """

    name: str
    before: float
    after: float
    allowed: float
    rising: float
    judged: bool

    @property
    def growth(self) -> float:
        return self.after - self.before

    @property
    def flat(self) -> bool:
        """Whether it stayed level.

        A leak has grown, and goes on growing. What has grown in one step, and then stood still, is the allocator's
        mark of the most that ever was under way at once; what rises and falls has not grown.
        """
        return not (self.judged and self.growth > self.allowed and self.rising > self.allowed / 2)


def judge(name: str, seconds: list[float], values: list[float], tolerance: Tolerance) -> Verdict:
    """Compare the last fifth of a series with its second.

    Args:
        name: what was sampled.
        seconds: when, ascending.
        values: what was found.
        tolerance: for growth.

    Example:
        >>> level, leak = [100.0] * 100, [100.0 + second for second in range(100)]
        >>> narrow = Tolerance(0.05, 1.0, "an example")
        >>> [judge("memory", list(range(100)), values, narrow).flat for values in (level, leak)]
        [True, False]
    """
    times, found = np.asarray(seconds, float), np.asarray(values, float)
    parts = [part for part in np.array_split(found, PARTS) if len(part)]
    if len(parts) < PARTS:
        level = statistics.median(values) if values else 0.0
        return Verdict(name, level, level, tolerance.of(level), 0.0, judged=False)
    before, after = float(np.median(parts[1])), float(np.median(parts[-1]))
    last = len(found) - len(parts[-1]) - len(parts[-2])
    between = (times[-1] - times[0]) * (PARTS - 2) / PARTS
    rising = slope(times[last:], found[last:]) * between
    return Verdict(name, before, after, tolerance.of(before), rising, judged=len(found) >= FEWEST)


def slope(times: np.ndarray, values: np.ndarray) -> float:
    """The median slope between all pairs of samples, of a few hundred evenly chosen ones where there are more."""
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), _POINTS)).astype(int))
    one, other = np.triu_indices(len(chosen), k=1)
    runs = times[chosen][other] - times[chosen][one]
    rises = values[chosen][other] - values[chosen][one]
    return float(np.median(rises[runs > 0] / runs[runs > 0])) if (runs > 0).any() else 0.0
