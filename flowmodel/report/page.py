"""The page of a report: one HTML file that needs nothing else, and its pictures as files beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from flowmodel.artefact.manifest import Manifest
from flowmodel.report.figures import Matrix, log_density, loss_curve, pair_plot, telling_columns
from flowmodel.training.history import FitResult


def write_report(
    folder: Path,
    manifest: Manifest,
    result: FitResult,
    *,
    data: Matrix,
    samples: Matrix,
    log_prob: dict[str, npt.NDArray[np.float64]],
) -> None:
    """Write ``index.html``, ``loss.png``, ``samples.png`` and ``log_density.png``.

    Args:
        folder: an existing directory.
        manifest: what the model card shows.
        result: the history of the training.
        data: rows ``[N, D]`` to compare samples with, at best held-out ones.
        samples: samples ``[M, D]`` of the model.
        log_prob: log-densities of several sets of rows, by the name of the set; at most three.
    """
    columns = telling_columns(data)
    names = [manifest.feature_names[column] for column in columns]
    shown = "all columns" if len(names) == data.shape[1] else f"the {len(names)} columns most related to others"
    pictures = [
        (
            "Training",
            f"Stopped by {result.stopped.replace('_', ' ')} after {result.epochs} epochs.",
            loss_curve(result),
            "loss",
        ),
        (
            "Data against samples",
            f"Shown: {shown} ({', '.join(names)}).",
            pair_plot(names, data[:, columns], samples[:, columns]),
            "samples",
        ),
        (
            "Log-density",
            "Where the held-out rows lie further left than the training rows, the model knows those by heart.",
            log_density(log_prob),
            "log_density",
        ),
    ]
    inlined = []
    for title, text, figure, name in pictures:
        png = _png(figure)
        (folder / f"{name}.png").write_bytes(png)
        inlined.append((title, text, base64.b64encode(png).decode()))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowmodel.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        manifest=manifest,
        training={"source": "a table", **manifest.training},
        numbers=_numbers(manifest),
        pictures=inlined,
        card=_card(manifest),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _numbers(manifest: Manifest) -> list[tuple[str, str]]:
    training = manifest.training
    numbers = [
        (label, f"{training[key]:.4g}")
        for label, key in (
            ("test NLL [nats]", "test_nll"),
            ("validation NLL [nats]", "validation_nll"),
            ("training NLL [nats]", "train_nll"),
            ("test bits per dimension", "test_bits_per_dimension"),
        )
        if isinstance(training.get(key), int | float)
    ]
    check = manifest.self_check
    if "max_abs_difference" in check:
        numbers.append(("nats between export and flow", f"{check['max_abs_difference']:.1e}"))
    return numbers


def _card(manifest: Manifest) -> Sequence[tuple[str, Any]]:
    training = {key: value for key, value in manifest.training.items() if not isinstance(value, dict | list)}
    return [
        ("features", ", ".join(manifest.feature_names)),
        ("context", ", ".join(manifest.context_names) or "none"),
        ("plan", str(manifest.plan)),
        ("base distribution", manifest.base.get("family", "")),
        ("dtype", manifest.dtype),
        *((key.replace("_", " "), value) for key, value in training.items()),
        ("reference log-density", _quantiles(manifest)),
        ("written by", f"flowmodel {manifest.flowmodel_version}, torch {manifest.torch_version}"),
    ]


def _quantiles(manifest: Manifest) -> str:
    reference = manifest.reference_log_prob
    pairs = zip(reference.get("probabilities", []), reference.get("log_prob", []), strict=True)
    return ", ".join(f"{100 * probability:g} %: {value:.2f}" for probability, value in pairs)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
