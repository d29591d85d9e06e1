"""The pictures of a report. Figures are made without pyplot, so that no global state or display is involved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowmodel.training.history import FitResult

Matrix = npt.NDArray[np.float64]

DATA, MODEL, MARK, INK = "#2f6db5", "#e07b39", "#8a8f98", "#2b3a4d"
MOST_COLUMNS = 6
_MOST_POINTS = 2000


def loss_curve(result: FitResult) -> Figure:
    """Negative log-likelihood of each epoch, in training and validation, with the epoch that was kept."""
    figure, axes = _figure(7.0, 3.6)
    epochs = [epoch.number for epoch in result.history]
    train = np.array([epoch.train_nll for epoch in result.history])
    validation = np.array([epoch.validation_nll for epoch in result.history])
    axes.plot(epochs, train, color=DATA, lw=1.4, label="training")
    axes.plot(epochs, validation, color=MODEL, lw=1.6, label="validation")
    axes.axvline(result.best_epoch, color=MARK, lw=1, ls="--", label=f"kept: epoch {result.best_epoch}")
    # The first epochs are far above the rest; the interesting part is the bottom.
    finite = np.concatenate([train[np.isfinite(train)], validation[np.isfinite(validation)]])
    low, high = finite.min(), np.quantile(finite, 0.98)
    margin = 0.06 * max(high - low, 1e-9)
    axes.set_ylim(low - margin, high + 3 * margin)
    axes.set(xlabel="epoch", ylabel="negative log-likelihood [nats]")
    axes.legend(frameon=False)
    return figure


def log_density(parts: dict[str, npt.NDArray[np.float64]]) -> Figure:
    """Histograms of the log-density of several sets of rows, on one axis."""
    figure, axes = _figure(7.0, 3.6)
    everything = np.concatenate([values[np.isfinite(values)] for values in parts.values()])
    low, high = np.quantile(everything, [0.002, 1.0])
    # About as many bins as the smallest set can fill.
    count = int(np.clip(3 * np.sqrt(min(map(len, parts.values()))), 10, 50))
    bins = np.linspace(low, high, count).tolist()
    for (name, values), colour in zip(parts.items(), (DATA, MODEL, MARK), strict=False):
        finite = np.clip(values[np.isfinite(values)], low, None)
        style = {"histtype": "stepfilled", "alpha": 0.35} if colour == DATA else {"histtype": "step", "lw": 1.8}
        label = f"{name}: median {np.median(finite):.2f}, {len(values)} rows"
        axes.hist(finite, bins=bins, density=True, color=colour, label=label, **style)  # type: ignore[arg-type]
    axes.set(xlabel="log-density [nats]", ylabel="share of rows")
    axes.set_yticks([])
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def pair_plot(names: Sequence[str], data: Matrix, samples: Matrix) -> Figure:
    """Data against samples, column by column on the diagonal and pair by pair below and above it.

    Args:
        names: at most ``MOST_COLUMNS`` columns.
        data: ``[N, d]``.
        samples: ``[M, d]``.
    """
    count = len(names)
    side = max(2.1 * count, 4.2)
    figure = Figure(figsize=(side, side), layout="constrained")
    grid = figure.subplots(count, count, squeeze=False, sharex="col")
    limits = [_limits(data[:, column]) for column in range(count)]
    for row in range(count):
        for column in range(count):
            axes = grid[row][column]
            _dress(axes)
            axes.tick_params(labelsize=7)
            if row == column:
                _histogram(axes, data[:, row], samples[:, row], limits[row])
            else:
                values, colour = (data, DATA) if row > column else (samples, MODEL)
                points = values[:_MOST_POINTS]
                size = 4 if len(points) > 500 else 9
                axes.scatter(points[:, column], points[:, row], s=size, lw=0, alpha=0.45, color=colour, rasterized=True)
                axes.set_ylim(*limits[row])
            axes.set_xlim(*limits[column])
            if column == 0 and row > 0:
                axes.set_ylabel(_short(names[row]), fontsize=8)
            elif row != column:
                axes.set_yticklabels([])
            if row == count - 1:
                axes.set_xlabel(_short(names[column]), fontsize=8)
    figure.suptitle("data (blue, below the diagonal) against samples (orange, above it)", fontsize=10, color=INK)
    return figure


def telling_columns(data: Matrix, most: int = MOST_COLUMNS) -> list[int]:
    """The columns to show: all, or those whose ranks are most correlated with others', in their own order.

    Example:
        >>> x = np.arange(10.0)
        >>> telling_columns(np.stack([np.cos(x), x, x**3], axis=1), most=2)
        [1, 2]
    """
    if data.shape[1] <= most:
        return list(range(data.shape[1]))
    ranks = data[:5000].argsort(0).argsort(0)
    strength = np.abs(np.corrcoef(ranks.T)) - np.eye(data.shape[1])
    return sorted(np.argsort(-strength.max(0), kind="stable")[:most].tolist())


def _histogram(axes: Axes, data: Matrix, samples: Matrix, limits: tuple[float, float]) -> None:
    bins = np.linspace(*limits, 36).tolist()
    axes.hist(data, bins=bins, density=True, color=DATA, alpha=0.35)
    axes.hist(samples, bins=bins, density=True, color=MODEL, histtype="step", lw=1.4)
    axes.set_yticks([])


def _limits(values: Matrix) -> tuple[float, float]:
    low, high = np.quantile(values, [0.002, 0.998])
    margin = 0.08 * max(high - low, 1e-12)
    return float(low - margin), float(high + margin)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MARK)
    axes.tick_params(colors=INK, labelsize=9)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
