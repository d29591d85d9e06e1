"""``flowmodel compare``: two published versions side by side on the rows of a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt

from flowmodel.artefact.remote_store import open_store
from flowmodel.artefact.store import ModelStore, PublishedModel
from flowmodel.cli.options import output_option, store_option
from flowmodel.cli.output import write_csv
from flowmodel.cli.score import read_for, score_rows
from flowmodel.data import Table, read_table
from flowmodel.errors import DataError
from flowmodel.runtime.scoring import Scorer
from flowmodel.training.history import bits_per_dimension

Vector = npt.NDArray[np.float64]

_MOST_DIFFERENT = 5
_NORMAL_95 = 1.959963984540054
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("data", type=click.Path(path_type=Path))
@store_option
@output_option
def compare(a: str, b: str, data: Path, store: Path | str, output: Path | None) -> None:
    """Compare the log-densities of two versions on the rows of DATA (CSV, Parquet or NPY).

    A and B are NAME, for the newest version, or NAME/VERSION. Both must model the same columns, in whatever order;
    columns are matched by name. With --output, the log-densities of every row are written as well.
    """
    first, second = (open_reference(open_store(store), reference) for reference in (a, b))
    check_same_features(first, second)
    table = _read(first, second, data)
    log_a, log_b = (_log_prob(model, table) for model in (first, second))
    names = tuple(f"{model.name}/{model.version}" for model in (first, second))
    comparison = paired_difference(log_a, log_b)
    for line in _lines(names, first.manifest.event_size, log_a, log_b, comparison, table):
        click.echo(line)
    if output is not None:
        rows = (
            (row + 1, log_a[row], log_b[row], log_b[row] - log_a[row], table.bad_rows.get(row, ""))
            for row in range(len(table))
        )
        with np.errstate(invalid="ignore"):
            write_csv(output, ("row", "log_prob_a", "log_prob_b", "difference", "error"), rows)


def open_reference(store: ModelStore, reference: str) -> PublishedModel:
    """The version that ``NAME`` (its newest) or ``NAME/VERSION`` stands for.

    Raises:
        DataError: what follows the slash is no version number.
        ModelNotFoundError: there is no such model or version.
    """
    name, slash, version = reference.partition("/")
    if slash and not (version.isascii() and version.isdecimal()):
        raise DataError(f"{reference!r} given; expected NAME or NAME/VERSION, such as wine or wine/3")
    return store.open(name, int(version) if slash else None)


def check_same_features(a: PublishedModel, b: PublishedModel) -> None:
    """Raise a :class:`DataError` unless two models have the same features: only then can densities be compared."""
    of_a, of_b = a.manifest.feature_names, b.manifest.feature_names
    lacking = [
        f"{model.name} version {model.version} lacks {', '.join(map(repr, missing))}"
        for model, missing in ((a, [n for n in of_b if n not in of_a]), (b, [n for n in of_a if n not in of_b]))
        if missing
    ]
    if lacking:
        raise DataError(
            f"{'; '.join(lacking)}: densities over different columns cannot be compared; give two models of the same "
            "columns"
        )


class PairedDifference(NamedTuple):
    """How much higher one log-density is than another, over rows on which both are finite, in nats."""

    rows: int
    mean: float
    standard_error: float
    low: float
    high: float
    share_better: float


def paired_difference(a: Vector, b: Vector) -> PairedDifference:
    """Mean of ``b - a`` with its standard error and 95 % interval, and the share of rows on which ``b`` is higher.

    Args:
        a: log-densities ``[N]`` in nats.
        b: those of the same rows under the other model.

    Example:
        >>> paired_difference(np.array([0.0, 0.0, -np.inf]), np.array([1.0, 3.0, 0.0]))[:3]
        (2, 2.0, 1.0)
    """
    both = np.isfinite(a) & np.isfinite(b)
    difference = b[both] - a[both]
    count = len(difference)
    if not count:
        return PairedDifference(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    mean = math.fsum(difference) / count
    error = math.sqrt(math.fsum((difference - mean) ** 2) / (count - 1) / count) if count > 1 else math.nan
    share = float((difference > 0).mean())
    return PairedDifference(count, mean, error, mean - _NORMAL_95 * error, mean + _NORMAL_95 * error, share)


def _read(a: PublishedModel, b: PublishedModel, path: Path) -> Table:
    """Every column that either model needs; an NPY file has no names, so both must then want the same ones in order."""
    of_a, of_b = ([*m.manifest.feature_names, *m.manifest.context_names] for m in (a, b))
    if path.suffix.lower() != ".npy":
        return read_table(path, [*of_a, *(name for name in of_b if name not in of_a)], bad_rows="keep")
    if of_a != of_b:
        raise DataError(
            f"{path}: an NPY file has no column names, and the two models take their columns in different orders "
            f"({', '.join(of_a)}; {', '.join(of_b)}); give a CSV or Parquet file"
        )
    table = read_for(a.manifest, path)
    return Table(tuple(of_a), table.rows, table.source, table.bad_rows)


def _log_prob(model: PublishedModel, table: Table) -> Vector:
    wanted = table.select([*model.manifest.feature_names, *model.manifest.context_names])
    return score_rows(Scorer.load(model.scorer_path), wanted.rows).astype(np.float64)


def _lines(
    names: tuple[str, ...], dimensions: int, a: Vector, b: Vector, paired: PairedDifference, table: Table
) -> Iterator[str]:
    columns = [_summary(values, dimensions) for values in (a, b)]
    cells = [("", "A", "B"), ("model", *names)]
    cells += [(label, columns[0][label], columns[1][label]) for label in columns[0]]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    for row in cells:
        yield f"{row[0].ljust(widths[0])}  {row[1].rjust(widths[1])}  {row[2].rjust(widths[2])}"
    yield ""
    if table.bad_rows:
        yield f"{len(table.bad_rows)} of {len(table)} rows hold no usable values and were left out."
    for name, own, other in ((names[0], a, b), (names[1], b, a)):
        alone = int((np.isneginf(own) & np.isfinite(other)).sum())
        if alone:
            yield f"{name} holds {alone} rows to be impossible (log-density -inf) that the other does not."
    if paired.rows:
        yield (
            f"B - A on the {paired.rows} rows finite under both: {paired.mean:+.6g} nats, standard error "
            f"{paired.standard_error:.3g}, 95 % interval {paired.low:+.6g} to {paired.high:+.6g}; "
            f"B is higher on {100 * paired.share_better:.1f} % of them."
        )
        yield "Rows that differ most:"
        difference = np.where(np.isfinite(a) & np.isfinite(b), b, 0.0) - np.where(np.isfinite(a) & np.isfinite(b), a, 0)
        for row in np.argsort(-np.abs(difference), kind="stable")[: min(_MOST_DIFFERENT, paired.rows)]:
            yield f"  row {row + 1}: A {a[row]:.6g}, B {b[row]:.6g}, B - A {difference[row]:+.6g}"
    yield f"Verdict: {_verdict(names, paired, a, b)}"


def _summary(values: Vector, dimensions: int) -> dict[str, str]:
    scored = values[~np.isnan(values)]
    finite = scored[np.isfinite(scored)]
    # One row of density zero makes the mean -inf: the likelihood of the whole file is then zero.
    mean = -math.inf if np.isneginf(scored).any() else math.fsum(scored) / len(scored) if len(scored) else math.nan
    summary = {
        "rows scored": str(len(scored)),
        "rows of log-density -inf": str(int(np.isneginf(values).sum())),
        "rows not scored": str(int(np.isnan(values).sum())),
        "mean log-density [nats]": f"{mean:.6g}",
        "bits per dimension": f"{bits_per_dimension(-mean, dimensions):.6g}",
    }
    quantiles = np.quantile(finite, _QUANTILES) if len(finite) else np.full(len(_QUANTILES), np.nan)
    return summary | {f"{100 * p:g} % quantile": f"{q:.6g}" for p, q in zip(_QUANTILES, quantiles, strict=True)}


def _verdict(names: tuple[str, ...], paired: PairedDifference, a: Vector, b: Vector) -> str:
    impossible = [int((np.isneginf(own) & np.isfinite(other)).sum()) for own, other in ((a, b), (b, a))]
    if any(impossible) and not all(impossible):
        worse = 0 if impossible[0] else 1
        return (
            f"{names[1 - worse]} describes these rows better: {names[worse]} gives {impossible[worse]} of them density "
            "zero."
        )
    if not paired.rows:
        return "no row has a finite log-density under both, so nothing can be compared."
    if paired.rows < 2:
        return "one row is not enough to tell the two apart."
    if paired.low <= 0 <= paired.high:
        return f"these {paired.rows} rows do not tell the two apart; the 95 % interval of the difference holds 0."
    better = names[1] if paired.mean > 0 else names[0]
    zeros = " (rows of density zero under either left out)" if all(impossible) else ""
    return f"{better} describes these rows better, by {abs(paired.mean):.4g} nats a row{zeros}."
