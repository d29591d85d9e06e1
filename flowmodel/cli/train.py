"""``flowmodel train``: from a data file to a published version."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import torch

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.publish import publish
from flowmodel.artefact.remote_store import open_store
from flowmodel.artefact.store import check_name
from flowmodel.cli.chunked_data import ChunkedData
from flowmodel.cli.options import Names, Widths, option, store_option
from flowmodel.cli.progress import training_progress
from flowmodel.cli.supports import Declared, column_supports, support_options
from flowmodel.cli.together import training_processes
from flowmodel.cli.training_data import TableData
from flowmodel.cli.training_file import read_training_data
from flowmodel.cli.training_report import write_training_report
from flowmodel.distributions import Flow
from flowmodel.training import FitResult, fit
from flowmodel.training.history import bits_per_dimension
from flowmodel.training.recipe import default_flow

_ONE_THREAD_COLUMNS = 64


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@option("--model", required=True, help="Name of the model.")
@store_option
@option("--columns", type=Names(), help="Columns whose density is learnt.  [default: all others]")
@option("--context-columns", type=Names(), default=(), help="Columns the density depends on.  [default: none]")
@support_options
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
@option(
    "--chunk-rows",
    type=click.IntRange(min=2),
    help="Read a Parquet file in chunks of so many rows.  [default: as a whole, up to 1 GiB of values]",
)
@option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto takes a GPU if there is one. torchrun --nproc-per-node N -m flowmodel train ... "
    "trains in N processes, each with its own GPU or all on the CPU.",
)
@option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that keeps the training as it stands until it is published.  [default: .checkpoints/MODEL in the store]",
)
@option("--resume", is_flag=True, help="Go on from the checkpoint, if there is one, to the very same weights.")
@option("--threads", type=click.IntRange(min=1), help="Of torch.  [default: 1 up to 64 columns, then torch's choice]")
@option(
    "--test", type=float, default=0.1, show_default=True, help="Fraction of rows that only the report's figures use."
)
def train(
    data: Path,
    model: str,
    store: Path | str,
    columns: tuple[str, ...] | None,
    context_columns: tuple[str, ...],
    supports: str,
    positive: Sequence[Declared],
    bounded: Sequence[Declared],
    integer: Sequence[Declared],
    periodic: Sequence[Declared],
    real: Sequence[Declared],
    layers: int,
    hidden: tuple[int, ...] | None,
    seed: int,
    validation: float,
    test: float,
    chunk_rows: int | None,
    device: str,
    checkpoint: Path | None,
    resume: bool,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train a flow on DATA (CSV, Parquet or NPY) and publish it as the next version of a model."""
    started = time.monotonic()
    check_name(model)
    for name, fraction in (("--validation", validation), ("--test", test)):
        if not 0 < fraction < 1:
            raise click.BadParameter(f"{fraction} is not between 0 and 1.", param_hint=name)
    checkpoint = checkpoint or open_store(store).root / ".checkpoints" / model
    with training_processes(device) as (place, rank):
        rows = read_training_data(
            data, columns, context_columns, validation=validation, test=test, seed=seed, chunk_rows=chunk_rows
        )
        if len(rows.columns) == 1 and not context_columns and not rank:
            click.echo("Note: with a single column and no context this flow can only be a Gaussian.", err=True)
        declared = {"positive": positive, "bounded": bounded, "integer": integer, "periodic": periodic, "real": real}
        chosen = column_supports(rows.features, context_columns, supports=supports, **declared)
        if threads is not None or len(rows.columns) <= _ONE_THREAD_COLUMNS:
            # Small matrix products lose more by waiting for another thread than they gain by its work.
            torch.set_num_threads(threads or 1)
        flow = default_flow(
            len(rows.columns), len(context_columns), layers=layers, hidden=hidden, seed=seed, supports=chosen
        ).to(place)
        if not rank:
            _say_where_it_starts(checkpoint, resume)
        with ends_clearly(checkpoint), training_progress(settings["max_epochs"], shown=not rank) as progress:
            result = fit(
                flow,
                **rows.fit_arguments(),
                seed=seed,
                progress=progress,
                checkpoint=checkpoint,
                resume=resume,
                **settings,
            )
    if rank:
        return
    flow.cpu()
    coarse = rows.coarse_columns()
    if coarse:
        click.echo(
            f"Note: {', '.join(coarse)}: values are so large beside their spread that float32 samples come in visible "
            "steps; take an offset off before training if samples matter. Log-densities are not affected.",
            err=True,
        )
    training = _training(flow, rows, result, seed) | {"seconds": round(time.monotonic() - started, 1)}

    def report(folder: Path, manifest: Manifest) -> None:
        write_training_report(folder, manifest, result, flow, rows)

    test_part = rows.part("test")
    published = publish(
        flow,
        store,
        model,
        feature_names=rows.columns,
        context_names=context_columns,
        rows=test_part.rows,
        context=test_part.context,
        training=training,
        report=report,
    )
    _remove(checkpoint)
    click.echo(
        f"Published {model} version {published.version} in {published.path}: test NLL {training['test_nll']:.3f} nats "
        f"({training['test_bits_per_dimension']:.3f} bits per dimension), best of {result.epochs} epochs "
        f"{result.best_epoch}, {time.monotonic() - started:.0f} s; see {published.path / 'report' / 'index.html'}"
    )


def _say_where_it_starts(checkpoint: Path, resume: bool) -> None:
    if resume and not checkpoint.exists():
        click.echo(f"Note: there is no checkpoint {checkpoint}; training starts anew.", err=True)
    elif not resume and checkpoint.exists():
        click.echo(f"Note: {checkpoint} of a training that was interrupted is replaced; --resume goes on.", err=True)


@contextmanager
def ends_clearly(checkpoint: Path) -> Iterator[None]:
    """Ctrl-C becomes one line and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        more = "; the same command with --resume goes on" if checkpoint.exists() else ", before anything was kept"
        click.echo(f"Interrupted{more}.", err=True)
        raise click.exceptions.Exit(130) from None


def _remove(checkpoint: Path) -> None:
    checkpoint.unlink(missing_ok=True)
    if checkpoint.parent.name == ".checkpoints":
        with suppress(OSError):
            checkpoint.parent.rmdir()


def _training(flow: Flow, rows: TableData | ChunkedData, result: FitResult, seed: int) -> dict[str, Any]:
    summary, test = result.summary(), rows.test_nll(flow)
    return {
        "source": Path(rows.source).name,
        "fingerprint": rows.fingerprint(),
        **summary,
        "rows": {**summary["rows"], "test": rows.counts["test"]},
        "split_seed": seed,
        "test_nll": test,
        "test_bits_per_dimension": bits_per_dimension(test, len(rows.columns)),
    }
