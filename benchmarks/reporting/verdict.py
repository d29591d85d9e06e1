"""Figures beside their targets: whether they reach them, how many do, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reporting.markdown import number, table

DISTURBED = 0.1
"""A figure during which other programs used more of the cores than this is not to be trusted."""


@dataclass(frozen=True)
class Verdict:
    """A figure beside its target.

    Attributes:
        what: was measured, and in what unit.
        where: sizes.
        measured: the figure.
        target: to be reached.
        at_most: whether the figure should be at most the target, or at least.
        others: share of the cores that other programs used meanwhile, where it is known.
        threads: of the measurement, where it is made with several numbers of them.
    """

    what: str
    where: str
    measured: float
    target: float
    at_most: bool
    others: float | None = None
    threads: int | None = None

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of the target."""
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    @property
    def disturbed(self) -> bool:
        """Whether other programs were too much in the way for the figure to say anything."""
        return self.others is not None and self.others > DISTURBED

    def __str__(self) -> str:
        """Reached or missed; neither where other programs were too much in the way to tell."""
        if self.disturbed:
            return f"disturbed: others used {100 * (self.others or 0.0):.0f} % of the cores"
        return "reached" if self.reached else "**missed**"


def summary(found: Sequence[Verdict]) -> str:
    """How many are reached, missed, and too disturbed to tell.

    Example:
        >>> summary([Verdict("a", "", 2.0, 3.0, True), Verdict("b", "", 9.0, 3.0, True, others=0.5)])
        '1 reached, 0 missed, 1 disturbed'
    """
    clear = [each.reached for each in found if not each.disturbed]
    return f"{sum(clear)} reached, {len(clear) - sum(clear)} missed, {len(found) - len(clear)} disturbed"


def verdict_table(found: Sequence[Verdict], where: str) -> str:
    """One line for each; the number of threads comes first where there is one.

    Args:
        found: all with threads, or all without.
        where: the head of the column of sizes.

    Example:
        >>> print(verdict_table([Verdict("log_prob, ms", "3, 32", 2.0, 3.0, True, threads=1)], "D, H"))
        | threads | what | D, H | measured | target |  |
        |---|---|---|---|---|---|
        | 1 | log_prob, ms | 3, 32 | 2.00 | <= 3 | reached |
    """
    threads = ["threads"] if any(each.threads is not None for each in found) else []
    lines = []
    for each in found:
        target = f"{'<=' if each.at_most else '>='} {each.target:g}"
        counted = [str(each.threads)] if threads else []
        lines.append([*counted, each.what, each.where, number(each.measured), target, str(each)])
    return table([*threads, "what", where, "measured", "target", ""], lines)
