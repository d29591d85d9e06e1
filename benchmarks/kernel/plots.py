"""The rows as SVG: cost against D, rows/s against B, share of the peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernel import targets

Row = dict[str, Any]

ROWS_SIZE = [63, 512]
"""D, H of the plot of rows/s."""


def draw(rows: list[Row], folder: Path, prefix: str) -> dict[str, str]:
    """Write what the rows have figures for.

    Returns:
        File names by what they show.
    """
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": prefix, "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    drawn = {}
    for what, name, plot in (
        ("Cost against D", "cost", _cost),
        ("Rows per second against B", "rows", _rows),
        ("Share of the peak", "peak", _peak),
    ):
        figure = plot(rows)
        if figure is not None:
            path = folder / f"{prefix}_{name}.svg"
            figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
            drawn[what] = path.name
    return drawn


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _lines(axes: Any, series: dict[str, list[tuple[float, float]]]) -> None:
    """Ours in thick lines; of a library both directions in one colour, D passes broken and a single pass dotted."""
    axes.set(xscale="log", yscale="log")
    libraries = list(dict.fromkeys(name.split(",")[0] for name in series))
    for name, points in series.items():
        library, _, direction = name.partition(", ")
        style = {"": "-", "D passes": "--", "single pass": ":"}[direction]
        colour, width = f"C{libraries.index(library)}", 1 if direction else 2
        axes.plot(
            *zip(*points, strict=True), style, marker="o", markersize=3, linewidth=width, color=colour, label=name
        )
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _most_threads(rows: list[Row], section: str) -> list[Row]:
    mine = [row for row in rows if row["section"] == section]
    most = max((row["threads"] for row in mine), default=0)
    return [row for row in mine if row["threads"] == most]


def _cost(rows: list[Row]) -> Any:
    mine = sorted(_most_threads(rows, "dimensions"), key=lambda row: row["key"])
    series: dict[str, list[tuple[float, float]]] = {}
    for row in mine:
        for name in row["times"]:
            value = targets.ratio(row, name, "dense pass")
            if value is not None:
                series.setdefault(name, []).append((row["key"][0], value))
    if not series:
        return None
    threads = mine[0]["threads"]
    figure, axes = _axes(f"Cost of one layer, H = 512, B = 1024, threads: {threads}", "dimensions D", "dense passes")
    _lines(axes, series)
    return figure


def _rows(rows: list[Row]) -> Any:
    mine = [row for row in _most_threads(rows, "peers") if row["key"][:2] == ROWS_SIZE]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(mine, key=lambda row: row["key"][2]):
        for name in row["times"]:
            value = targets.milliseconds(row, name)
            if value is not None and name != "sample, noise drawn":
                series.setdefault(name, []).append((row["key"][2], row["key"][2] / value * 1e3))
    if not series:
        return None
    size = "D = {}, H = {}".format(*ROWS_SIZE)
    figure, axes = _axes(f"One layer, {size}, threads: {mine[0]['threads']}", "rows B in a call", "rows per second")
    _lines(axes, series)
    return figure


def _peak(rows: list[Row]) -> Any:
    mine = sorted((row for row in rows if row["section"] == "layer"), key=lambda row: row["key"])
    if not mine:
        return None
    sizes = list(dict.fromkeys(tuple(row["key"]) for row in mine))
    bars = [
        (t, name) for t in sorted({row["threads"] for row in mine}, reverse=True) for name in ("log_prob", "sample")
    ]
    figure, axes = _axes("Useful work as a share of the measured matrix product", "D, H, B", "share of the peak")
    width = 0.8 / len(bars)
    for place, (threads, name) in enumerate(bars):
        shares = {
            tuple(row["key"]): targets.share_of_peak(row, name, row["key"][-1]) or 0.0
            for row in mine
            if row["threads"] == threads
        }
        positions = [at + (place - (len(bars) - 1) / 2) * width for at in range(len(sizes))]
        axes.bar(positions, [shares.get(size, 0.0) for size in sizes], width, label=f"{name}, threads: {threads}")
    axes.axhline(targets.PEAK_SHARE, color="grey", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(sizes)), [", ".join(map(str, size)) for size in sizes], fontsize=7)
    axes.legend(fontsize=7)
    return figure
