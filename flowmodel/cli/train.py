"""``flowmodel train``: from a data file to a published version."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt
import torch

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.publish import publish
from flowmodel.artefact.store import check_name
from flowmodel.cli.options import Names, Widths, option, store_option
from flowmodel.cli.progress import training_progress
from flowmodel.data import Split, Table, check_enough_rows, check_varied, read_table, split_rows
from flowmodel.distributions import Flow
from flowmodel.errors import DataError
from flowmodel.report import write_report
from flowmodel.training import FitResult, fit
from flowmodel.training.history import bits_per_dimension
from flowmodel.training.recipe import default_flow

Matrix = npt.NDArray[np.float64]

_MOST_REPORT_ROWS = 4000
_ONE_THREAD_COLUMNS = 64


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@option("--model", required=True, help="Name of the model.")
@store_option
@option("--columns", type=Names(), help="Columns whose density is learnt.  [default: all others]")
@option("--context-columns", type=Names(), default=(), help="Columns the density depends on.  [default: none]")
@option("--layers", type=click.IntRange(min=1), default=5, show_default=True, help="Autoregressive layers.")
@option("--hidden", type=Widths(), help="Widths of each network's hidden layers.  [default: by the number of columns]")
@option(
    "--seed",
    type=click.IntRange(min=0, max=2**64 - 1),
    default=0,
    show_default=True,
    help="Seed of split, weights and training.",
)
@option("--max-epochs", type=click.IntRange(min=1), default=300, show_default=True, help="Most passes over the rows.")
@option(
    "--patience",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Epochs without a better validation until the learning rate is lowered, and then until the end.",
)
@option("--batch-size", type=click.IntRange(min=1), help="Rows in a step.  [default: by the number of rows]")
@option("--learning-rate", type=float, default=3e-3, show_default=True, help="Of AdamW, at first.")
@option("--weight-decay", type=float, help="Of AdamW.  [default: 300 over the number of rows, at most 1]")
@option("--validation", type=float, default=0.1, show_default=True, help="Fraction of rows that choose the weights.")
@option("--threads", type=click.IntRange(min=1), help="Of torch.  [default: 1 up to 64 columns, then torch's choice]")
@option(
    "--test", type=float, default=0.1, show_default=True, help="Fraction of rows that only the report's figures use."
)
def train(
    data: Path,
    model: str,
    store: Path,
    columns: tuple[str, ...] | None,
    context_columns: tuple[str, ...],
    layers: int,
    hidden: tuple[int, ...] | None,
    seed: int,
    validation: float,
    test: float,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train a flow on DATA (CSV, Parquet or NPY) and publish it as the next version of a model."""
    started = time.monotonic()
    check_name(model)
    for name, fraction in (("--validation", validation), ("--test", test)):
        if not 0 < fraction < 1:
            raise click.BadParameter(f"{fraction} is not between 0 and 1.", param_hint=name)
    features, contexts = read_features(data, columns, context_columns)
    check_enough_rows(len(features), len(features.columns), features.source)
    for part in (features, contexts):
        if part is not None:
            check_varied(part.rows, part.columns, part.source)
    split = split_rows(len(features), validation=validation, test=test, seed=seed)
    check_enough_rows(len(split.train), len(features.columns), f"{data}, training part")
    if len(features.columns) == 1 and contexts is None:
        click.echo("Note: with a single column and no context this flow can only be a Gaussian.", err=True)
    if threads is not None or len(features.columns) <= _ONE_THREAD_COLUMNS:
        # Small matrix products lose more by waiting for another thread than they gain by its work.
        torch.set_num_threads(threads or 1)
    flow = default_flow(len(features.columns), len(context_columns), layers=layers, hidden=hidden, seed=seed)
    rows = Parts(features, contexts, split)
    with training_progress(settings["max_epochs"]) as progress:
        result = fit(
            flow,
            rows.values(split.train),
            context=rows.contexts(split.train),
            validation=rows.values(split.validation),
            validation_context=rows.contexts(split.validation),
            seed=seed,
            progress=progress,
            **settings,
        )
    _warn_of_coarse_samples(features)
    training = _training(flow, rows, result, seed)

    def report(folder: Path, manifest: Manifest) -> None:
        _write_report(folder, manifest, result, flow, rows)

    published = publish(
        flow,
        store,
        model,
        feature_names=features.columns,
        context_names=context_columns,
        rows=rows.values(split.test),
        context=rows.contexts(split.test),
        training=training,
        report=report,
    )
    click.echo(
        f"Published {model} version {published.version} in {published.path}: test NLL {training['test_nll']:.3f} nats "
        f"({training['test_bits_per_dimension']:.3f} bits per dimension), best of {result.epochs} epochs "
        f"{result.best_epoch}, {time.monotonic() - started:.0f} s; see {published.path / 'report' / 'index.html'}"
    )


def _warn_of_coarse_samples(features: Table) -> None:
    """Say which columns float32 cannot resolve: they are scored exactly, in float64, but samples come in float32."""
    step = np.abs(features.rows).max(0) * np.finfo(np.float32).eps
    coarse = [name for name, wide in zip(features.columns, step > 0.01 * features.rows.std(0), strict=True) if wide]
    if coarse:
        click.echo(
            f"Note: {', '.join(coarse)}: values are so large beside their spread that float32 samples come in visible "
            "steps; take an offset off before training if samples matter. Log-densities are not affected.",
            err=True,
        )


class Parts(NamedTuple):
    """A table's features and contexts, split."""

    features: Table
    context: Table | None
    split: Split

    def values(self, indices: npt.NDArray[np.int64]) -> Matrix:
        """Features of some rows."""
        return self.features.rows[indices]

    def contexts(self, indices: npt.NDArray[np.int64]) -> Matrix | None:
        """Contexts of some rows, if there are any."""
        return None if self.context is None else self.context.rows[indices]


def read_features(path: Path, columns: Sequence[str] | None, contexts: Sequence[str]) -> tuple[Table, Table | None]:
    """The feature and context columns of a file.

    Raises:
        DataError: As ``read_table``, or a column is to be both feature and context.
    """
    both = [name for name in contexts if columns is not None and name in columns]
    if both:
        raise DataError(f"{path}: column {both[0]!r} is asked for as feature and as context; choose one")
    table = read_table(path, None if columns is None else [*columns, *contexts])
    chosen = columns if columns is not None else [name for name in table.columns if name not in contexts]
    return table.select(chosen), table.select(contexts) if contexts else None


def _training(flow: Flow, rows: Parts, result: FitResult, seed: int) -> dict[str, Any]:
    summary = result.summary()
    test = -float(np.mean(_log_prob(flow, rows, rows.split.test)))
    if not math.isfinite(test):
        raise DataError(
            f"{rows.features.source}: a test row has no finite log-density under the trained flow; look for rows far "
            "from all others, or give more of them"
        )
    dimensions = len(rows.features.columns)
    return {
        "source": Path(rows.features.source).name,
        "fingerprint": _fingerprint(rows),
        **summary,
        "rows": {**summary["rows"], "test": len(rows.split.test)},
        "split_seed": seed,
        "test_nll": test,
        "test_bits_per_dimension": bits_per_dimension(test, dimensions),
    }


def _fingerprint(rows: Parts) -> str:
    if rows.context is None:
        return rows.features.fingerprint()
    both = np.concatenate([rows.features.rows, rows.context.rows], axis=1)
    return Table(rows.features.columns + rows.context.columns, both, rows.features.source).fingerprint()


def _write_report(folder: Path, manifest: Manifest, result: FitResult, flow: Flow, rows: Parts) -> None:
    shown = rows.split.test if len(rows.split.test) >= 500 else np.concatenate(rows.split)
    shown, train = shown[:_MOST_REPORT_ROWS], rows.split.train[:_MOST_REPORT_ROWS]
    context = rows.contexts(shown)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if context is None:
            samples = flow.sample((len(shown),))
        else:
            samples = flow.sample((len(shown),), torch.from_numpy(context))
    write_report(
        folder,
        manifest,
        result,
        data=rows.values(shown),
        samples=samples.numpy().astype(np.float64),
        log_prob={"training rows": _log_prob(flow, rows, train), "test rows": _log_prob(flow, rows, rows.split.test)},
    )


@torch.no_grad()
def _log_prob(flow: Flow, rows: Parts, indices: npt.NDArray[np.int64]) -> Matrix:
    pieces = []
    for start in range(0, len(indices), 8192):
        part = indices[start : start + 8192]
        context = rows.contexts(part)
        given = None if context is None else torch.from_numpy(context)
        pieces.append(flow.log_prob(torch.from_numpy(rows.values(part)), given).numpy().astype(np.float64))
    return np.concatenate(pieces)
