"""The figures of a report, as SVG."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from flowmodel.report.calibration import Calibration
from flowmodel.report.drawing import Limits, Panel, figure, short, shortened, widened
from flowmodel.training.history import Epoch, FitResult

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]

KINDS = {"held-out": "data", "training": "train", "samples": "model"}
"""The colour of each set of rows."""

_MOST_POINTS = 1200
_MOST_CELLS = 40
"""Up to so many whole numbers each get a bar of their own."""


def loss_curves(result: FitResult) -> Markup:
    """Negative log-likelihood by epoch, in training and validation, the kept epoch and falls of the learning rate."""
    epochs = np.array([epoch.number for epoch in result.history], dtype=np.float64)
    train = np.array([epoch.train_nll for epoch in result.history])
    validation = np.array([epoch.validation_nll for epoch in result.history])
    both = np.concatenate([train, validation])
    both = both[np.isfinite(both)]
    # The first epochs are far above the rest; the interesting part is the bottom.
    low, high = (both.min(), np.quantile(both, 0.96)) if len(both) else (0.0, 1.0)
    room = 0.08 * (high - low)
    panel = Panel(62, 44, 566, 220, x=(0, max(1.0, epochs[-1])), y=(low - room, high + 2 * room))
    panel.y_axis()
    panel.x_axis("epoch")
    for before, after in learning_rate_falls(result):
        panel.upright(
            after.number, "fall", f"learning rate {short(before.learning_rate)} → {short(after.learning_rate)}"
        )
    panel.upright(result.best_epoch, "best", f"kept: epoch {result.best_epoch}", lift=16)
    panel.frame()
    panel.line(epochs, train, "train")
    panel.line(epochs, validation, "data")
    panel.dot(result.best_epoch, float(np.clip(result.best.validation_nll, *panel.y)), "data")
    panel.text(14, 44 + 110, "NLL [nats per row]", "middle", "label", turn=True)
    return figure(640, 306, "Training and validation loss by epoch", panel)


def log_densities(parts: Mapping[str, Vector]) -> tuple[Markup, int]:
    """Histograms of log-densities, by name of the set of rows, and how many of the first are beyond the axis.

    The marks are quantiles of the first set.
    """
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    finite = {name: values for name, values in finite.items() if len(values)}
    low, high = _main_part(np.concatenate(list(finite.values())))
    # About as many bins as the smallest set can fill.
    count = int(np.clip(2.5 * np.sqrt(min(map(len, finite.values()))), 8, 60))
    panel = Panel(20, 40, 608, 216, x=(low, high), y=(0, 1))
    edges = np.linspace(*panel.x, count + 1)
    heights = {name: np.histogram(values.clip(*panel.x), edges)[0] / len(values) for name, values in finite.items()}
    panel.y = (0.0, 1.06 * max(float(height.max()) for height in heights.values()))
    for name, height in heights.items():
        if KINDS[name] == "data":
            panel.steps(edges, height, "data", filled=True)
        panel.steps(edges, height, KINDS[name])
    panel.x_axis("log-density [nats]", most=7)
    panel.frame(left=False)
    first = next(iter(finite.values()))
    if len(first) >= 10:
        for probability, name, lift in ((0.01, "1 %", 0), (0.5, "median", 14), (0.99, "99 %", 0)):
            value = float(np.quantile(first, probability))
            if low <= value <= high:
                panel.upright(value, "best", name, lift)
    return figure(640, 298, "Histogram of log-densities", panel), int((first < low).sum())


def pair_plot(
    names: Sequence[str], data: Matrix, samples: Matrix, *, whole: Collection[int] = (), given: Collection[int] = ()
) -> Markup:
    """Data against samples, column by column on the diagonal, data below and samples above it.

    Args:
        names: Of the d columns.
        data: ``[N, d]``, finite.
        samples: ``[M, d]``, finite.
        whole: Columns of whole numbers.
        given: Columns that are contexts, the same in both.
    """
    count = len(names)
    cell = {1: 330.0, 2: 250.0, 3: 180.0, 4: 138.0}.get(count, 560 / count)
    gap, left, top = 10.0, 62.0, 8.0
    limits, cells = zip(
        *(_limits(data[:, column], samples[:, column], whole=column in whole) for column in range(count)), strict=True
    )
    letters = int(cell / 6.2)
    panels = []
    for row in range(count):
        for column in range(count):
            width = cell if count > 1 else 560.0
            place = (left + column * (cell + gap), top + row * (cell + gap), width, cell if count > 1 else 240.0)
            panel = Panel(*place, x=limits[column], y=limits[row])
            if row == column:
                _bars(panel, data[:, row], samples[:, row], cells=cells[row], given=row in given)
            else:
                values, kind = (data, "data") if row > column else (samples, "model")
                points = values[: _MOST_POINTS if count < 5 else _MOST_POINTS // 2]
                panel.points(points[:, column], points[:, row], kind if len(points) > 300 else f"{kind} few")
            panel.frame()
            if row == count - 1:
                panel.x_axis(shortened(names[column], letters), most=7 if count == 1 else 3, kind="small")
            if column == 0 and count > 1:
                if row:
                    panel.y_axis(most=3, grid=False, kind="small")
                panel.text(13, panel.top + cell / 2, shortened(names[row], letters), "middle", "label small", turn=True)
            panels.append(panel)
    last = panels[-1]
    return figure(last.left + last.width + 12, last.top + last.height + 44, "Pair plot of data and samples", *panels)


def calibration_curve(measured: Calibration, dimension: int, highest: float, label: str) -> Markup:
    """Distribution function of one dimension's transform minus the diagonal, in the band that all of it should keep."""
    panel = Panel(44, 8, 168, 96, x=(0, 1), y=(-highest, highest))
    panel.band(-measured.band, measured.band)
    panel.y_axis(most=3, grid=False, kind="small")
    panel.x_axis(most=3, kind="small")
    panel.level(0, "zero")
    panel.frame()
    inside = measured.distances[dimension] <= measured.band
    panel.line(*measured.curve(dimension), "data" if inside else "bad")
    return figure(220, 128, label, panel)


def learning_rate_falls(result: FitResult, most: int = 3) -> list[tuple[Epoch, Epoch]]:
    """Epochs before and after the learning rate fell by a tenth or more; none where it falls all the time."""
    pairs = zip(result.history, result.history[1:], strict=False)
    falls = [(before, after) for before, after in pairs if after.learning_rate < 0.9 * before.learning_rate]
    return falls if len(falls) <= most else []


def _bars(panel: Panel, data: Vector, samples: Vector, *, cells: bool, given: bool) -> None:
    low, high = panel.x
    count = round(high - low) if cells else int(np.clip(2.5 * np.sqrt(len(data)), 8, 36))
    edges = np.linspace(low, high, count + 1)
    heights = [np.histogram(values, edges)[0] / max(len(values), 1) for values in (data, samples)]
    panel.y = (0.0, 1.08 * max(float(height.max()) for height in heights) or 1.0)
    panel.steps(edges, heights[0], "data", filled=True)
    if not given:
        panel.steps(edges, heights[1], "model")


def _limits(data: Vector, samples: Vector, *, whole: bool) -> tuple[Limits, bool]:
    """Where nearly all of the data are, and most of the samples; and whether each whole number gets its own bar."""
    low, high = (float(value) for value in np.quantile(data, [0.002, 0.998]))
    if len(samples):
        inner = np.quantile(samples, [0.02, 0.98])
        spread = high - low
        low, high = max(min(low, inner[0]), low - spread), min(max(high, inner[1]), high + spread)
    if whole and high - low < _MOST_CELLS:
        return (float(np.floor(low) - 0.5), float(np.ceil(high) + 0.5)), True
    margin = 0.06 * (high - low)
    return widened((low - margin, high + margin)), False


def _main_part(values: Vector) -> Limits:
    """The values without those far from all others."""
    low, quarter, half, three_quarters, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    reach = 8 * (three_quarters - quarter)
    return float(max(low, half - reach)), float(min(high, half + reach))
