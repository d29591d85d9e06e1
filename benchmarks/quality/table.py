"""Runs to medians, standings and a Markdown table."""

from __future__ import annotations

import math
import statistics
from typing import Any

from reporting import markdown as page
from scipy import stats

Run = dict[str, Any]

OURS = "flowmodel"


def nll(runs: list[Run], table: str, model: str) -> dict[int, float]:
    """Held-out NLL in nats by seed; infinite where a run ended in NaN."""
    values = {run["seed"]: run["nll"] for run in runs if run["table"] == table and run["model"] == model}
    return {seed: value if value is not None and math.isfinite(value) else math.inf for seed, value in values.items()}


def standing(runs: list[Run], table: str, peers: list[str]) -> tuple[str, float, float]:
    """The peer of the best median, how far we are behind it, and half the 95 % interval of that.

    Behind is the mean of the differences on the same seed, below nought where we are ahead; its interval is Student's.
    """
    ours = nll(runs, table, OURS)
    best = min((peer for peer in peers if nll(runs, table, peer)), key=lambda peer: _median(nll(runs, table, peer)))
    theirs = nll(runs, table, best)
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    behind = statistics.fmean(differences)
    if len(differences) < 2 or not math.isfinite(behind):
        return best, behind, 0.0
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return best, behind, error * float(stats.t.ppf(0.975, len(differences) - 1))


def verdict(behind: float, interval: float) -> str:
    """Ahead or behind where the whole interval is, else level."""
    if abs(behind) <= interval:
        return "level"
    return "ahead" if behind < 0 else "behind"


def markdown(runs: list[Run], tables: list[str], models: list[str]) -> str:
    """One row for each table: medians over the seeds, half the range from the lowest to the highest in brackets."""
    heads = ["table", "rows x columns", "truth", *models, "ours - best peer", ""]
    lines = []
    for table in tables:
        mine = [run for run in runs if run["table"] == table]
        if not mine:
            continue
        best = min((model for model in models if nll(runs, table, model)), key=lambda m: _median(nll(runs, table, m)))
        cells = [table, f"{mine[0]['rows']} x {mine[0]['columns']}", _truth(mine)]
        for model in models:
            cell = _cell(nll(runs, table, model))
            cells.append(f"**{cell}**" if model == best and len(models) > 1 else cell)
        peers = [model for model in models if model != OURS]
        if nll(runs, table, OURS) and any(nll(runs, table, peer) for peer in peers):
            peer, behind, interval = standing(runs, table, peers)
            cells += [f"{behind:+.3f} ± {interval:.3f} ({peer})", verdict(behind, interval)]
        else:
            cells += ["", ""]
        lines.append(cells)
    return page.table(heads, lines)


def not_finite(runs: list[Run], models: list[str]) -> str:
    """How many runs of each model ended in something else than a number."""
    counts = {model: [run for run in runs if run["model"] == model] for model in models}
    bad = {model: sum(run["nll"] is None or run["bad_rows"] > 0 for run in mine) for model, mine in counts.items()}
    return ", ".join(f"{model} {bad[model]} of {len(mine)}" for model, mine in counts.items())


def seconds(runs: list[Run], models: list[str]) -> str:
    """Median seconds of a fit."""
    parts = []
    for model in models:
        times = [run["seconds"] for run in runs if run["model"] == model]
        parts += [f"{model} {statistics.median(times):.0f} s"] if times else []
    return ", ".join(parts)


def _truth(mine: list[Run]) -> str:
    values = {run["seed"]: run["true_nll"] for run in mine if run["true_nll"] is not None}
    return f"{statistics.median(values.values()):.3f}" if values else ""


def _cell(values: dict[int, float]) -> str:
    if not values:
        return ""
    bad = sum(not math.isfinite(value) for value in values.values())
    spread = (max(values.values()) - min(values.values())) / 2
    text = f"{_median(values):.3f} ({spread:.2f})"
    return f"{text}, {bad} NaN" if bad else text


def _median(values: dict[int, float]) -> float:
    return statistics.median(values.values())
