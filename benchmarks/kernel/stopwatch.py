"""Times of several calls that take turns, so that what disturbs the machine disturbs them all.

A turn is a burst: the call is made once untimed, which loads its weights into the cache and lets the threads of the
call before it fall asleep, and then timed again and again for a fixed share of its time. The median is over all bursts.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]
Timing = dict[str, Any]
"""``{"ms": median, "low": lower quartile, "high": upper quartile, "calls": how many}`` or ``{"skipped": "> 8 s"}``."""

SINGLE_SECONDS = 2.0
"""A call that takes longer is timed once."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much to measure.

    Args:
        seconds: for all timed calls of one name together.
        rounds: bursts that they are spread over.
        longest: a call expected to take more seconds is skipped.
    """

    seconds: float = 0.6
    rounds: int = 6
    longest: float = 8.0


def interleaved(calls: dict[str, Call], effort: Effort, expected: dict[str, float] | None = None) -> dict[str, Timing]:
    """The time of each call.

    Args:
        calls: by name.
        effort: how much to measure.
        expected: seconds that a call may be expected to take, where something is known.

    Example:
        >>> timings = interleaved({"sum": lambda: sum(range(100)), "long": lambda: None}, Effort(0.01), {"long": 60})
        >>> timings["sum"]["ms"] > 0, timings["long"]
        (True, {'skipped': '> 8 s'})
    """
    expected = expected or {}
    timings: dict[str, Timing] = {}
    samples: dict[str, list[float]] = {}
    usual: dict[str, float] = {}
    for name, call in calls.items():
        if expected.get(name, 0.0) > effort.longest:
            timings[name] = {"skipped": f"> {effort.longest:g} s"}
            continue
        usual[name] = _seconds(call)
        if usual[name] > SINGLE_SECONDS:
            timings[name] = timing([usual[name]])
        else:
            samples[name] = []
            usual[name] = min(usual[name], _seconds(call))
    burst = effort.seconds / effort.rounds
    for turn in range(effort.rounds):
        names = list(samples)
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else []:
            if not takes_part(turn, usual[name], effort):
                continue
            if usual[name] < burst / 2:
                calls[name]()
            end = time.perf_counter() + burst
            while True:
                samples[name].append(_seconds(calls[name]))
                usual[name] = min(usual[name], samples[name][-1])
                if time.perf_counter() + usual[name] > end:
                    break
    timings.update({name: timing(values) for name, values in samples.items()})
    return {name: timings[name] for name in calls}


def takes_part(turn: int, usual: float, effort: Effort) -> bool:
    """Whether a call of ``usual`` seconds is made in this turn: a slow one only in some, evenly spread, at least one.

    Example:
        >>> [takes_part(turn, 0.3, Effort(0.6, 6)) for turn in range(6)]
        [False, False, True, False, False, True]
    """
    turns = max(1, min(effort.rounds, int(effort.seconds / usual))) if usual > 0 else effort.rounds
    return (turn + 1) * turns // effort.rounds > turn * turns // effort.rounds


def timing(seconds: list[float]) -> Timing:
    """Median and quartiles in milliseconds.

    Example:
        >>> timing([0.001, 0.002, 0.004])
        {'ms': 2.0, 'low': 1.5, 'high': 3.0, 'calls': 3}
    """
    low, high = seconds[0], seconds[0]
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    values = {"ms": statistics.median(seconds), "low": low, "high": high}
    return {name: float(f"{1e3 * value:.5g}") for name, value in values.items()} | {"calls": len(seconds)}


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
