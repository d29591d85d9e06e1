"""``flowmodel sample``: rows drawn from a model, without a server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.remote_store import open_store
from flowmodel.cli.options import option, output_option, store_option, version_option
from flowmodel.cli.output import write_csv
from flowmodel.data import read_table
from flowmodel.errors import DataError
from flowmodel.runtime.scoring import Draw, Scorer

_ROWS_AT_ONCE = 65536


@click.command()
@click.argument("name")
@option(
    "--count", type=click.IntRange(min=1), required=True, help="Rows to draw; with --context, for each of its rows."
)
@option(
    "--seed", type=click.IntRange(min=0, max=2**64 - 1), help="The same seed draws the same rows.  [default: a new one]"
)
@option("--context", type=click.Path(path_type=Path), help="File of context columns, for a model that needs them.")
@option("--with-log-prob", is_flag=True, help="Add the column log_prob, in nats.")
@version_option
@store_option
@output_option
def sample(
    name: str,
    count: int,
    seed: int | None,
    context: Path | None,
    with_log_prob: bool,
    version: int | None,
    store: Path | str,
    output: Path | None,
) -> None:
    """Draw rows from the model NAME and write them as CSV, a column for each feature."""
    holds = open_store(store)
    published = holds.open(name, holds.default_version(name) if version is None else version)
    contexts = _contexts(published.manifest, context)
    scorer = Scorer.load(published.scorer_path)
    if seed is None:
        seed = secrets.randbits(64)
        click.echo(f"seed {seed}", err=True)
    header = [*scorer.feature_names, *scorer.context_names, *(["log_prob"] if with_log_prob else [])]
    write_csv(output, header, _rows(scorer, seed, count, contexts, with_log_prob))


def _rows(
    scorer: Scorer, seed: int, count: int, contexts: npt.NDArray[np.float64] | None, with_log_prob: bool
) -> Iterator[list[Any]]:
    total = count * (1 if contexts is None else len(contexts))
    for start in range(0, total, _ROWS_AT_ONCE):
        size = min(_ROWS_AT_ONCE, total - start)
        part = None if contexts is None else contexts[np.arange(start, start + size) // count]
        rows, log_prob = scorer.sample([Draw(seed, start, size)], part)
        for index in range(size):
            given = [] if part is None else list(part[index])
            yield [*rows[index], *given, *([log_prob[index]] if with_log_prob else [])]


def _contexts(manifest: Manifest, path: Path | None) -> npt.NDArray[np.float64] | None:
    if not manifest.context_names:
        if path is not None:
            raise DataError(f"{path}: a context was given, and {manifest.name} version {manifest.version} takes none")
        return None
    if path is None:
        names = ", ".join(manifest.context_names)
        raise DataError(
            f"{manifest.name} version {manifest.version} needs a context: give a file of {names} by --context"
        )
    return read_table(path, manifest.context_names).rows
