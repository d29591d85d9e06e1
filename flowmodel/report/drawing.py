"""Axes in SVG. Colours and sizes of text are the page's, so that a figure follows it into the dark and onto paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

Vector = npt.NDArray[np.float64]
Limits = tuple[float, float]

_LETTER = 6.5
"""Width of a digit, about."""

_SHADES = 4
"""Paths into which points are dealt: where those of several lie on each other it gets darker."""


class Panel:
    """One pair of axes.

    Args:
        left: Of the plotting area, in the units of the figure, as are the next three.
        top: From above.
        width: Of the plotting area.
        height: Of the plotting area.
        x: Limits of the horizontal axis.
        y: Limits of the vertical axis.

    Example:
        >>> panel = Panel(40, 10, 100, 50, x=(0, 1), y=(0, 2))
        >>> panel.line(np.array([0.0, 1.0]), np.array([0.0, 2.0]), "data")
        >>> print(figure(150, 80, "A line", panel))
        <svg viewBox="0 0 150 80" role="img" aria-label="A line"><path class="line data" d="M40 60L140 10"/></svg>
    """

    def __init__(self, left: float, top: float, width: float, height: float, *, x: Limits, y: Limits) -> None:
        self.left, self.top, self.width, self.height = left, top, width, height
        self.x, self.y = widened(x), widened(y)
        self.parts: list[str] = []

    def across(self, values: npt.ArrayLike) -> Vector:
        """Values of the horizontal axis as places in the figure."""
        return self.left + self.width * (np.asarray(values, dtype=np.float64) - self.x[0]) / (self.x[1] - self.x[0])

    def down(self, values: npt.ArrayLike) -> Vector:
        """Values of the vertical axis as places in the figure."""
        share = (np.asarray(values, dtype=np.float64) - self.y[0]) / (self.y[1] - self.y[0])
        return self.top + self.height * (1 - share.clip(-20, 20))

    def line(self, x: Vector, y: Vector, kind: str) -> None:
        """A line through the finite points, cut off where it leaves the axes above or below."""
        kept = np.isfinite(x) & np.isfinite(y)
        x, y = x[kept], y[kept]
        if not len(x):
            return
        path = f'<path class="line {kind}" d="M{_pairs(self.across(x), self.down(y), "L")}"/>'
        if y.min() < self.y[0] or y.max() > self.y[1]:
            place = [_number(value) for value in (self.left, self.top, self.width, self.height)]
            size = 'x="{}" y="{}" width="{}" height="{}"'.format(*place)
            path = f'<svg {size} viewBox="{" ".join(place)}">{path}</svg>'
        self.parts.append(path)

    def steps(self, edges: npt.ArrayLike, heights: npt.ArrayLike, kind: str, *, filled: bool = False) -> None:
        """A histogram of heights ``[B]`` over edges ``[B + 1]``, as an outline or filled."""
        x = np.repeat(self.across(edges), 2)
        y = self.down(np.concatenate([[self.y[0]], np.repeat(np.asarray(heights), 2), [self.y[0]]]))
        self._path(f"{'area' if filled else 'line'} {kind}", "M" + _pairs(x, y, "L"))

    def points(self, x: Vector, y: Vector, kind: str) -> None:
        """Dots, those outside the axes left out."""
        inside = (x >= self.x[0]) & (x <= self.x[1]) & (y >= self.y[0]) & (y <= self.y[1])
        across, down = self.across(x[inside]), self.down(y[inside])
        for start in range(_SHADES):
            if len(across[start::_SHADES]):
                dots = "M" + _pairs(across[start::_SHADES], down[start::_SHADES], "h0M") + "h0"
                self._path(f"dots {kind}", dots)

    def dot(self, x: float, y: float, kind: str) -> None:
        """One large dot."""
        across, down = float(self.across(x)), float(self.down(y))
        self.parts.append(f'<circle class="dot {kind}" cx="{_number(across)}" cy="{_number(down)}" r="4"/>')

    def band(self, low: float, high: float) -> None:
        """A shaded stripe between two heights."""
        top, bottom = (float(self.down(np.clip(value, *self.y))) for value in (high, low))
        self.parts.append(
            f'<rect class="band" x="{_number(self.left)}" y="{_number(top)}" width="{_number(self.width)}" '
            f'height="{_number(bottom - top)}"/>'
        )

    def upright(self, x: float, kind: str, label: str = "", lift: float = 0.0) -> None:
        """A vertical line at ``x``; its label stands above the axes, turned away from the nearer edge."""
        place = float(self.across(x))
        above = self.top - lift - (12 if label else 0)
        self._path(f"rule {kind}", f"M{_number(place)} {_number(above)}V{_number(self.top + self.height)}")
        if label:
            right = place > self.left + 0.6 * self.width
            self.text(place + (-4 if right else 4), above + 8, label, "end" if right else "start", kind)

    def level(self, y: float, kind: str) -> None:
        """A horizontal line."""
        place = _number(float(self.down(y)))
        self._path(f"rule {kind}", f"M{_number(self.left)} {place}H{_number(self.left + self.width)}")

    def frame(self, *, left: bool = True) -> None:
        """The lower edge, and the left one."""
        start = self.top if left else self.top + self.height
        bottom, right = _number(self.top + self.height), _number(self.left + self.width)
        self._path("axis", f"M{_number(self.left)} {_number(start)}V{bottom}H{right}")

    def x_axis(self, label: str = "", most: int = 6, kind: str = "") -> None:
        """Ticks, as many as their numbers leave room for, and what they are, below."""
        bottom, right = self.top + self.height, self.left + self.width
        found = ticks(*self.x, most)
        while most > 1 and len(found) * max(len(text) + 1 for _, text in found) * _LETTER > self.width:
            most -= 1
            found = ticks(*self.x, most)
        for value, text in found:
            place = float(self.across(value))
            reach = 0.5 * _LETTER * len(text)
            # What would stand out runs along the axes instead, for there is a neighbour.
            anchor = "middle" if kind == "" else "start" if place - reach < self.left - 6 else "middle"
            anchor = "end" if kind and place + reach > right + 6 else anchor
            self._path("axis", f"M{_number(place)} {_number(bottom)}v4")
            self.text(place, bottom + 17, text, anchor, kind)
        if label:
            self.text(self.left + self.width / 2, bottom + 36, label, "middle", f"label {kind}".strip())

    def y_axis(self, most: int = 5, *, grid: bool = True, kind: str = "") -> None:
        """Ticks and their numbers on the left."""
        for value, text in ticks(*self.y, most):
            place = float(self.down(value))
            if grid:
                self._path("grid", f"M{_number(self.left)} {_number(place)}h{_number(self.width)}")
            self.text(self.left - 7, place + 4, text, "end", kind)

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "", turn: bool = False) -> None:
        """Some words at a place of the figure; turned, they run upwards."""
        kind = f' class="{kind}"' if kind else ""
        turned = f' transform="rotate(-90 {_number(x)} {_number(y)})"' if turn else ""
        place = f'x="{_number(x)}" y="{_number(y)}"'
        self.parts.append(f'<text{kind} {place} text-anchor="{anchor}"{turned}>{escape(text)}</text>')

    def _path(self, kind: str, path: str) -> None:
        self.parts.append(f'<path class="{kind}" d="{path}"/>')


def figure(width: float, height: float, label: str, *panels: Panel) -> Markup:
    """The panels as one SVG element, with words for those who cannot see it."""
    inside = "".join(part for panel in panels for part in panel.parts)
    size = f"0 0 {_number(width)} {_number(height)}"
    return Markup(f'<svg viewBox="{size}" role="img" aria-label="{escape(label)}">{inside}</svg>')


def ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Round numbers between two limits, at most so many, and how they are written.

    Where numbers are long beside their distance, the first is written out and the others as what is added to it.

    Example:
        >>> ticks(-1.2, 2.1)
        [(-1.0, '-1'), (0.0, '0'), (1.0, '1'), (2.0, '2')]
        >>> [text for _, text in ticks(1.7e9, 1.7e9 + 5, most=3)]
        ['1.7e9', '+2', '+4']
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = [factor * power for factor in (1, 2, 5, 10, 20)]
    step = next(step for step in steps if math.floor(high / step) - math.ceil(low / step) < most)
    places = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    values = (places * step).tolist()
    texts = [short(value, step) for value in values]
    if max(map(len, texts), default=0) > 7 or len(set(texts)) < len(texts):
        texts = [short(values[0]), *("+" + short(value - values[0], step) for value in values[1:])]
    return list(zip(values, texts, strict=True))


def short(value: float, step: float | None = None) -> str:
    """A number in few characters, to a digit more than a step asks for, else to four.

    Example:
        >>> short(0.30000000000000004, 0.1), short(1234567.0), short(0.00001234), short(-2.0)
        ('0.3', '1.235e6', '1.234e-5', '-2')
        >>> short(1.7e9 + 2.5), short(1.7e9 + 2.5, 0.1)
        ('1.7e9', '1700000002.5')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0 or (step is not None and abs(value) < step / 1000):
        return "0"
    digits = 4 if step is None else max(1, math.floor(math.log10(abs(value))) - math.floor(math.log10(step)) + 2)
    whole = len(str(abs(round(value))))
    if 1e-3 <= abs(value) < (1e15 if whole < digits <= 15 else 1e6 if value == round(value) else 1e5):
        return _plain(f"{value:.{max(digits, whole)}g}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def widened(limits: Sequence[float]) -> Limits:
    """Limits with a distance between them, even where all values are the same."""
    low, high = float(limits[0]), float(limits[1])
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-12):
        return low, high
    margin = 0.5 * max(abs(low), 1.0)
    return low - margin, high + margin


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters, its middle left out.

    Example:
        >>> shortened("mean_of_something_long", 11)
        'mean_…_long'
    """
    if len(text) <= most:
        return text
    front = (most - 1 + 1) // 2
    return text[:front] + "…" + text[len(text) - (most - 1 - front) :]


def _plain(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _pairs(x: Vector, y: Vector, between: str) -> str:
    return between.join(f"{_number(a)} {_number(b)}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _number(value: float) -> str:
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")
