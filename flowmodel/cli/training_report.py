"""What ``flowmodel train`` puts into the report of a version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from flowmodel.artefact.manifest import Manifest
from flowmodel.cli.chunked_data import ChunkedData
from flowmodel.cli.training_data import Part, TableData, log_prob
from flowmodel.distributions import Flow
from flowmodel.report import write_report
from flowmodel.training import FitResult

_MOST_ROWS = 4000
_ENOUGH_ROWS = 500
"""Test rows that make a picture; where there are fewer, all rows are shown."""


def write_training_report(
    folder: Path, manifest: Manifest, result: FitResult, flow: Flow, data: TableData | ChunkedData
) -> None:
    """Pictures and page of a flow just trained.

    Args:
        folder: An existing directory.
        manifest: What the model card shows.
        result: The history of the training.
        flow: The trained flow.
        data: What it was trained on.
    """
    test = data.part("test")
    shown = test if len(test.rows) >= _ENOUGH_ROWS else _all_parts(data)
    shown = Part(shown.rows[:_MOST_ROWS], None if shown.context is None else shown.context[:_MOST_ROWS])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if shown.context is None:
            samples = flow.sample((len(shown.rows),))
        else:
            samples = flow.sample((len(shown.rows),), torch.from_numpy(shown.context))
    write_report(
        folder,
        manifest,
        result,
        data=shown.rows,
        samples=samples.numpy().astype(np.float64),
        log_prob={
            "training rows": log_prob(flow, data.part("train", _MOST_ROWS)),
            "test rows": log_prob(flow, test),
        },
    )


def _all_parts(data: TableData | ChunkedData) -> Part:
    train, validation, test = (data.part(name, _MOST_ROWS) for name in ("train", "validation", "test"))
    rows = np.concatenate([train.rows, validation.rows, test.rows])
    if train.context is None or validation.context is None or test.context is None:
        return Part(rows, None)
    return Part(rows, np.concatenate([train.context, validation.context, test.context]))
