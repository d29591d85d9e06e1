"""What ``flowmodel train`` puts into the report of a version."""

from __future__ import annotations

from pathlib import Path

import click

from flowmodel.artefact.manifest import Manifest
from flowmodel.cli.chunked_data import ChunkedData
from flowmodel.cli.training_data import TableData
from flowmodel.distributions import Flow
from flowmodel.report import write_report
from flowmodel.training import FitResult

_TEST_ROWS = 10_000
_TRAINING_ROWS = 4000
_SAMPLES = 4000


def write_training_report(
    folder: Path, manifest: Manifest, result: FitResult, flow: Flow, data: TableData | ChunkedData
) -> None:
    """The page of a flow just trained; what goes wrong is a note, for the flow is worth more than its page.

    Args:
        folder: An existing directory.
        manifest: What the model card shows.
        result: The history of the training.
        flow: The trained flow.
        data: What it was trained on.
    """
    test, train = data.part("test", _TEST_ROWS), data.part("train", _TRAINING_ROWS)
    try:
        write_report(
            folder,
            flow,
            test.rows,
            context=test.context,
            training_rows=train.rows,
            training_context=train.context,
            samples=_SAMPLES,
            row_numbers=data.row_numbers("test", _TEST_ROWS),
            result=result,
            manifest=manifest,
        )
    except Exception as error:
        click.echo(f"Note: there is no report, for it failed ({type(error).__name__}: {error}).", err=True)
