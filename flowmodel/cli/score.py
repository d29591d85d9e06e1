"""``flowmodel score``: log-densities of a file's rows, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.remote_store import open_store
from flowmodel.cli.options import output_option, store_option, version_option
from flowmodel.cli.output import write_csv
from flowmodel.data import Table, read_table
from flowmodel.errors import DataError
from flowmodel.runtime.scoring import Scorer

_ROWS_AT_ONCE = 65536


@click.command()
@click.argument("name")
@click.argument("data", type=click.Path(path_type=Path))
@version_option
@store_option
@output_option
def score(name: str, data: Path, version: int | None, store: Path | str, output: Path | None) -> None:
    """Write the log-density, in nats, of each row of DATA (CSV, Parquet or NPY) under the model NAME.

    Columns are matched by name, those of an NPY file by place. A row that cannot be scored gets nan and its reason in
    the column "error".
    """
    holds = open_store(store)
    published = holds.open(name, holds.default_version(name) if version is None else version)
    table = read_for(published.manifest, data)
    scorer = Scorer.load(published.scorer_path)
    write_csv(output, ("row", "log_prob", "error"), _answers(scorer, table))
    if table.bad_rows:
        click.echo(f"{len(table.bad_rows)} of {len(table)} rows could not be scored; see the column error", err=True)


def read_for(manifest: Manifest, path: Path) -> Table:
    """A file's feature and context columns, in the order of a model; bad rows are kept, with their reasons.

    Raises:
        DataError: As ``read_table``, or an NPY file has another number of columns than the model.
    """
    names = [*manifest.feature_names, *manifest.context_names]
    if path.suffix.lower() != ".npy":
        return read_table(path, names, bad_rows="keep")
    table = read_table(path, bad_rows="keep")
    if len(table.columns) != len(names):
        raise DataError(
            f"{path}: {len(table.columns)} columns; {manifest.name} version {manifest.version} needs {len(names)}: "
            f"{', '.join(names)}"
        )
    return table


def _answers(scorer: Scorer, table: Table) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(table), _ROWS_AT_ONCE):
        part = table.rows[start : start + _ROWS_AT_ONCE]
        for row, value in enumerate(score_rows(scorer, part), start):
            yield row + 1, value, table.bad_rows.get(row, "")


def score_rows(scorer: Scorer, rows: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Log-densities ``[N]`` of ``rows[N, D + C]``, features before contexts; NaN for a row that is not finite."""
    answers = np.full(len(rows), np.nan, scorer.dtype)
    good = np.isfinite(rows).all(axis=1)
    if good.any():
        features = np.ascontiguousarray(rows[good, : scorer.event_size])
        context = np.ascontiguousarray(rows[good, scorer.event_size :]) if scorer.context_size else None
        answers[good] = scorer.log_prob(features, context)
    return answers
