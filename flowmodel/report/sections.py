"""The sections of a report that look at rows: loss, samples, log-densities, calibration, the ends of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flowmodel.report.association import followed, telling_columns
from flowmodel.report.calibration import calibration
from flowmodel.report.drawing import short, shortened
from flowmodel.report.evidence import Evidence
from flowmodel.report.extremes import TRIED, WIDE, Blame, blame, least_likely, most_likely
from flowmodel.report.figures import KINDS, calibration_curve, log_densities, loss_curves, pair_plot
from flowmodel.report.section import Cell, Picture, Section, Table
from flowmodel.training.history import FitResult

PAIR_COLUMNS = 6
CURVES = 12
EXTREME_ROWS = 8
_TABLE_COLUMNS = 6
_ENOUGH_ROWS = 500
"""Held-out rows that make a picture; where there are fewer, those of the training join them."""
_CALIBRATION_ROWS = 4000
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def training_section(result: FitResult) -> Section:
    """Loss curves."""
    why = {
        "patience": "the validation loss had stopped falling",
        "max_epochs": "the largest number of epochs was reached, and more might still help",
    }[result.stopped]
    text = [
        f"Training ended after {counted(result.epochs, 'epoch')} because {why}; the weights are those of epoch "
        f"{result.best_epoch}. The training loss is taken while the weights change, the validation loss under their "
        "average, which is why the latter may be the lower one at first."
    ]
    if result.skipped_steps:
        steps = counted(result.skipped_steps, "step")
        text.append(f"{steps} without a finite gradient {_were(result.skipped_steps)} left out.")
    legend = [("train", "training"), ("data", "validation")]
    return Section("training", "Training", text, legend, [Picture(loss_curves(result))])


def pairs_section(evidence: Evidence) -> Section:
    """Data against samples."""
    data = evidence.held_out.rows[evidence.held_out.scored]
    contexts = _contexts(evidence, "held_out")
    title, what = "Data against samples", "held-out rows"
    if evidence.training is not None and len(data) < _ENOUGH_ROWS:
        data = np.concatenate([data, evidence.training.rows[evidence.training.scored]])
        contexts = np.concatenate([contexts, _contexts(evidence, "training")])
        what = "held-out and training rows"
    samples = evidence.samples.rows[evidence.samples.scored]
    if len(data) < 2 or len(samples) < 2:
        return Section("samples", title, ["There are too few rows with a finite log-density to draw."])
    columns = telling_columns(data, PAIR_COLUMNS)
    width = data.shape[1]
    given = list(range(min(contexts.shape[1], 2, PAIR_COLUMNS - len(columns))))
    names = [evidence.names[column] for column in columns] + [f"{evidence.context_names[c]} (given)" for c in given]
    shown = f"the {what}"
    if len(columns) < width:
        shown += f", in the {len(columns)} of {width} columns most correlated with others"
    text = [
        f"Samples of the model should be indistinguishable from {shown}. Points below the diagonal are data, points "
        "above it samples; along it lie the histograms of both."
        if len(names) > 1
        else f"Samples of the model should be indistinguishable from {shown}."
    ]
    if contexts.shape[1]:
        text.append("Each sample was drawn given the context of a held-out row.")
    places = list(range(len(columns), len(names)))
    whole = [place for place, column in enumerate(columns) if column in evidence.model.flow.whole_columns]
    drawn_for = _contexts(evidence, "samples")[:, given]
    svg = pair_plot(
        names,
        np.concatenate([data[:, columns], contexts[:, given]], axis=1),
        np.concatenate([samples[:, columns], drawn_for], axis=1),
        whole=whole,
        given=places,
    )
    legend = [("data", what), ("model", "samples")]
    return Section("samples", title, text, legend, [Picture(svg)], "wide" if len(names) > 2 else "single")


def density_section(evidence: Evidence) -> Section:
    """Histogram and quantiles of the log-density."""
    parts = {name: part.log_prob for name, part in evidence.parts.items()}
    finite = {name: values[np.isfinite(values)] for name, values in parts.items()}
    tables = [_quantiles(parts, finite)]
    if not len(finite["held-out"]):
        text = ["No held-out row has a finite log-density, so there is nothing to draw."]
        return Section("log-density", "Log-density", text, tables=tables)
    text = [_gap(finite), _typical(finite)]
    svg, beyond = log_densities(parts)
    if beyond:
        text.append(
            f"{counted(beyond, 'held-out row')} further left {_were(beyond, 'is', 'are')} counted in the first bar."
        )
    legend = [(KINDS[name], name) for name in parts if len(finite[name])]
    return Section("log-density", "Log-density", [line for line in text if line], legend, [Picture(svg)], tables=tables)


def calibration_section(evidence: Evidence) -> Section:
    """The noise of held-out rows against the base distribution."""
    held_out, model = evidence.held_out, evidence.model
    chosen = np.flatnonzero(held_out.scored)[:_CALIBRATION_ROWS]
    context = None if held_out.context is None else held_out.context[chosen]
    noise = model.noise(held_out.rows[chosen], context)
    finite = np.isfinite(noise).all(1)
    noise, rows = noise[finite], held_out.rows[chosen][finite]
    title = "Calibration of the latent"
    if len(noise) < 2:
        return Section("calibration", title, ["Fewer than two held-out rows have finite noise, too few to compare."])
    measured = calibration(model.flow.base_dist, noise)
    size, outside = len(measured.distances), measured.outside
    distribution = "distribution function of the base" if measured.exact else "draws of the base, 20 000 of them"
    text = [
        f"{outside} of {counted(size, 'dimension')} {_were(outside, 'leaves', 'leave')} the band; with a perfect "
        f"model {short(0.05 * size)} would, on average. The model takes each of {len(noise)} held-out rows to noise, "
        f"which should be spread as the base distribution is. u is the share of noise below that of the row, by the "
        f"{distribution}; a curve shows how much more of the rows than that share lie below u.",
        "Up, then down: the rows are spread wider than the model believes. Down, then up: narrower. All above or all "
        "below 0: shifted to lower or to higher values.",
    ]
    if size > CURVES:
        text.append(f"Shown: the {CURVES} worst of {size}, the worst first.")
    columns, strength = followed(noise, rows)
    order = np.argsort(-measured.distances, kind="stable")[:CURVES].tolist()
    highest = 1.15 * max(measured.band, float(measured.distances.max()))
    pictures = []
    for dimension in order:
        distance = measured.distances[dimension]
        verdict = "inside" if distance <= measured.band else "outside"
        near = f"follows {shortened(evidence.names[columns[dimension]], 40)}" if strength[dimension] >= 0.5 else ""
        svg = calibration_curve(
            measured, dimension, highest, f"Calibration of dimension {dimension}, {verdict} the band"
        )
        pictures.append(Picture(svg, f"z{dimension}" + (f" · {near}" if near else ""), f"KS {distance:.3f}, {verdict}"))
    legend = [("data", "inside the band"), ("bad", "outside"), ("band", f"95 % band, ± {measured.band:.3f}")]
    headline = (f"{size - outside} of {size}", "dimensions calibrated", f"95 % band, {len(noise)} rows")
    return Section("calibration", title, text, legend, pictures, "grid", headline=headline)


def rows_section(evidence: Evidence) -> Section:
    """The most and the least likely held-out rows."""
    log_prob = evidence.held_out.log_prob
    least, most = least_likely(log_prob, EXTREME_ROWS), most_likely(log_prob, EXTREME_ROWS)
    reasons = blame(evidence, least)
    missing = int(np.isnan(log_prob).sum())
    text = [
        "The column most responsible is the one whose change alone, to a value that is usual for it, raises the "
        "log-density of the row most; beside it that value and the log-density the row would then have."
    ]
    if len(evidence.names) > WIDE:
        text.append(f"Of a row's columns the {TRIED} furthest from the middle of what is usual were tried.")
    if evidence.counted:
        text.append("Rows are numbered among the held-out ones, from 1.")
    if missing:
        text.append(f"{counted(missing, 'row')} with a missing value {_were(missing, 'has', 'have')} no log-density.")
    columns = _columns_to_show(evidence, reasons)
    if len(columns) < len(evidence.names):
        text.append(f"The tables show {len(columns)} of {len(evidence.names)} columns, those responsible first.")
    tables = [_least(evidence, least, reasons, columns), _most(evidence, most, columns)]
    return Section("rows", "Least and most likely rows", text, tables=tables)


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    Example:
        >>> counted(1, "row"), counted(12000, "row")
        ('1 row', '12 000 rows')
    """
    return f"{number:,}".replace(",", " ") + f" {noun}" + ("" if number == 1 else "s")


def _were(number: int, one: str = "was", many: str = "were") -> str:
    return one if number == 1 else many


def _contexts(evidence: Evidence, name: str) -> npt.NDArray[np.float64]:
    part = getattr(evidence, name)
    context = np.zeros((len(part.rows), 0)) if part.context is None else part.context
    return np.asarray(context[part.scored], dtype=np.float64)


def _gap(finite: dict[str, npt.NDArray[np.float64]]) -> str:
    held_out, training = finite["held-out"], finite.get("training", np.zeros(0))
    if len(held_out) < 2 or len(training) < 2:
        return ""
    gap = training.mean() - held_out.mean()
    error = np.sqrt(training.var() / len(training) + held_out.var() / len(held_out))
    less = "less" if gap > 0 else "more"
    words = f"Held-out rows are {abs(gap):.2g} ± {error:.1g} nats {less} likely than training rows on average"
    if gap > 2 * error:
        return (
            f"{words}, which is more than chance explains: the model knows some of the training rows by heart, or the "
            "held-out rows are of another kind."
        )
    return f"{words}, no more than chance explains." if gap > -2 * error else f"{words}."


def _typical(finite: dict[str, npt.NDArray[np.float64]]) -> str:
    held_out, samples = finite["held-out"], finite["samples"]
    if len(samples) < 100:
        return ""
    low = float(np.mean(held_out < np.quantile(samples, 0.01)))
    return (
        f"{100 * low:.1f} % of held-out rows are less likely than 99 % of the samples; a perfect model has 1 % of them."
    )


def _quantiles(parts: dict[str, npt.NDArray[np.float64]], finite: dict[str, npt.NDArray[np.float64]]) -> Table:
    head = [Cell("rows"), Cell("number", "number"), Cell("not finite", "number")]
    head += [Cell("median" if level == 0.5 else f"{100 * level:g} %", "number") for level in _QUANTILES]
    rows = []
    for name, values in finite.items():
        quantiles = np.quantile(values, _QUANTILES).tolist() if len(values) else [float("nan")] * len(_QUANTILES)
        numbers = [str(len(parts[name])), str(len(parts[name]) - len(values)), *map(_nats, quantiles)]
        rows.append([Cell(name, KINDS[name]), *(Cell(number, "number") for number in numbers)])
    return Table("Quantiles of the log-density [nats]", head, rows)


def _columns_to_show(evidence: Evidence, reasons: Sequence[Blame]) -> list[int]:
    counts = Counter(reason.column for reason in reasons if reason.column is not None)
    responsible = [column for column, _ in counts.most_common()]
    others = [column for column in range(len(evidence.names)) if column not in counts]
    if len(evidence.names) <= _TABLE_COLUMNS:
        return list(range(len(evidence.names)))
    return (responsible + others)[:_TABLE_COLUMNS]


def _head(evidence: Evidence, columns: Sequence[int]) -> list[Cell]:
    names = [evidence.names[column] for column in columns] + list(evidence.context_names[:_TABLE_COLUMNS])
    return [Cell(shortened(name, 24), "number", name) for name in names]


def _values(evidence: Evidence, place: int, columns: Sequence[int], marked: int | None = None) -> list[Cell]:
    row, context = evidence.held_out.rows[place], evidence.held_out.context
    cells = [
        Cell(evidence.value_text(column, row[column]), "number marked" if column == marked else "number")
        for column in columns
    ]
    given = [] if context is None else context[place, :_TABLE_COLUMNS].tolist()
    return cells + [Cell(short(value), "number") for value in given]


def _least(
    evidence: Evidence, places: npt.NDArray[np.int64], reasons: Sequence[Blame], columns: Sequence[int]
) -> Table:
    head = [Cell("row", "number"), Cell("log-density", "number"), Cell("column most responsible")]
    head += [Cell("if it were", "number"), Cell("log-density then", "number")]
    rows = []
    for place, reason in zip(places.tolist(), reasons, strict=True):
        name = "" if reason.column is None else evidence.names[reason.column]
        found = reason.column is not None and np.isfinite(reason.log_prob)
        rows.append(
            [
                Cell(str(evidence.row_numbers[place]), "number"),
                Cell(_nats(evidence.held_out.log_prob[place]), "number"),
                Cell(shortened(name, 32), "name", name) if name else Cell("none alone", "soft"),
                Cell(evidence.value_text(reason.column or 0, reason.usual) if found else "", "number"),
                Cell(_nats(reason.log_prob) if found else "", "number"),
                *_values(evidence, place, columns, reason.column),
            ]
        )
    return Table("Least likely held-out rows", head + _head(evidence, columns), rows)


def _most(evidence: Evidence, places: npt.NDArray[np.int64], columns: Sequence[int]) -> Table:
    head = [Cell("row", "number"), Cell("log-density", "number"), *_head(evidence, columns)]
    rows = [
        [
            Cell(str(evidence.row_numbers[place]), "number"),
            Cell(_nats(evidence.held_out.log_prob[place]), "number"),
            *_values(evidence, place, columns),
        ]
        for place in places.tolist()
    ]
    return Table("Most likely held-out rows", head, rows)


def _nats(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.2f}" if abs(value) < 1e5 else short(value)
