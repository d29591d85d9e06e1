"""Which values a column of data may hold, as plans.

A density that knows its support puts no mass where no data can be. ``bij.Supports`` turns these plans into a part of a
flow, ``flowmodel.data`` finds them in tables and holds tables to them.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

from flowmodel.errors import PlanError
from flowmodel.plans import Plan


@dataclasses.dataclass(frozen=True)
class Support(Plan, abc.ABC):
    """Which values a column may hold."""

    @property
    @abc.abstractmethod
    def interval(self) -> tuple[float, float]:
        """The open interval on which the column has a density, infinite where there is no bound."""

    @property
    @abc.abstractmethod
    def words(self) -> str:
        """The support for a message, such as ``numbers above 0``."""

    def contains(self, values: Any) -> Any:
        """Which of the values, an array or a tensor, lie in the support; NaN and infinities never do."""
        low, high = self.interval
        return (values > low) & (values < high)


@dataclasses.dataclass(frozen=True)
class Real(Support):
    """All real numbers."""

    @property
    def interval(self) -> tuple[float, float]:
        """All of the line."""
        return -math.inf, math.inf

    @property
    def words(self) -> str:
        """The support for a message."""
        return "real numbers"


@dataclasses.dataclass(frozen=True)
class Positive(Support):
    """Numbers above 0: lengths, prices, waiting times. The density is that of the logarithm, in data units."""

    @property
    def interval(self) -> tuple[float, float]:
        """Above 0."""
        return 0.0, math.inf

    @property
    def words(self) -> str:
        """The support for a message."""
        return "numbers above 0"


@dataclasses.dataclass(frozen=True)
class Bounded(Support):
    """Numbers between two bounds, neither reached: rates, shares.

    Args:
        low: the lower bound.
        high: the upper bound.

    Raises:
        PlanError: a bound is not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _make_floats(self, "low", "high")
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise PlanError(
                f"Bounded: low={self.low:g}, high={self.high:g} given; expected low below high, as in bij.Bounded(0, 1)"
            )

    @property
    def interval(self) -> tuple[float, float]:
        """Between the bounds."""
        return self.low, self.high

    @property
    def words(self) -> str:
        """The support for a message."""
        return f"numbers between, not at, {self.low:.17g} and {self.high:.17g}"


@dataclasses.dataclass(frozen=True)
class Integer(Support):
    """Whole numbers: counts, ratings, years.

    The column has the density of a continuous value whose cell of width 1 about each whole number holds that number's
    probability; at the whole number it stands for the probability by the midpoint rule. The cells hold 1 together,
    exactly; the midpoints do where the density is nearly straight within a cell, which takes a standard deviation of 2
    or more. Low counts fall short of that: under ``Integer(0)`` and an affine flow, ``exp(log_prob)`` over all
    whole numbers sums to 1.10 for counts of mean 1, to 1.05 for those of mean 0.3, to 1.000 for those of mean 5.
    Compare such scores with each other and not with probabilities, or average the density over the cell.

    Args:
        low: the least whole number, or ``None``.
        high: the greatest, or ``None``.

    Raises:
        PlanError: a bound is not a whole number, or ``low`` is above ``high``.
    """

    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not _is_number(value) or value != int(value):
                raise PlanError(f"Integer: {name}={value!r} given; expected a whole number or None")
            object.__setattr__(self, name, int(value))
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise PlanError(f"Integer: low={self.low}, high={self.high} given; expected low below high")

    @property
    def interval(self) -> tuple[float, float]:
        """From the lower end of the first cell to the upper end of the last."""
        return -math.inf if self.low is None else self.low - 0.5, math.inf if self.high is None else self.high + 0.5

    @property
    def words(self) -> str:
        """The support for a message."""
        if self.low is None:
            return "whole numbers" if self.high is None else f"whole numbers up to {self.high}"
        return f"whole numbers from {self.low}" + ("" if self.high is None else f" to {self.high}")

    def contains(self, values: Any) -> Any:
        """Which of the values are whole numbers within the bounds."""
        return super().contains(values) & (values == values.round())


@dataclasses.dataclass(frozen=True)
class Periodic(Support):
    """Values on a circle: headings, hours of the day. Any number is reduced to ``[low, low + period)``.

    Args:
        low: the least value that is written.
        period: after how much the values start again.

    Raises:
        PlanError: ``low`` is not finite, or ``period`` not above 0.
    """

    low: float
    period: float

    def __post_init__(self) -> None:
        _make_floats(self, "low", "period")
        if not self.period > 0 or not math.isfinite(self.low + self.period):
            raise PlanError(
                f"Periodic: low={self.low:g}, period={self.period:g} given; expected a period above 0, "
                "as in bij.Periodic(0, 360)"
            )

    @property
    def interval(self) -> tuple[float, float]:
        """All of the line, which goes round the circle again and again."""
        return -math.inf, math.inf

    @property
    def words(self) -> str:
        """The support for a message."""
        return f"numbers on the circle from {self.low:.17g} to {self.low + self.period:.17g}"


def _make_floats(plan: Support, *names: str) -> None:
    for name in names:
        value = getattr(plan, name)
        if not _is_number(value):
            raise PlanError(f"{type(plan).__name__}: {name}={value!r} given; expected a finite number")
        object.__setattr__(plan, name, float(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
