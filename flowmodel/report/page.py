"""The page of a report: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from flowmodel.artefact.manifest import Manifest
from flowmodel.distributions import Flow
from flowmodel.report.card import card_section
from flowmodel.report.drawing import short
from flowmodel.report.evidence import Evidence, Rows, gather
from flowmodel.report.section import Section
from flowmodel.report.sections import (
    calibration_section,
    counted,
    density_section,
    pairs_section,
    rows_section,
    training_section,
)
from flowmodel.training.history import FitResult, bits_per_dimension


def report_of(
    flow: Flow,
    rows: Rows,
    *,
    context: Rows | None = None,
    training_rows: Rows | None = None,
    training_context: Rows | None = None,
    samples: int = 4000,
    feature_names: Sequence[str] | None = None,
    context_names: Sequence[str] | None = None,
    row_numbers: npt.ArrayLike | None = None,
    result: FitResult | None = None,
    manifest: Manifest | None = None,
    title: str | None = None,
    seed: int = 0,
) -> str:
    """A page by which a person judges a flow: figures of held-out rows, the odd ones among them, and a model card.

    Args:
        flow: The flow, of any plan and base; it is left as it is.
        rows: ``[N, *event_shape]``, at best rows it was not trained on. They may lie outside the supports or hold NaN.
        context: ``[N, *context_shape]`` for a conditional flow, one for each row.
        training_rows: ``[M, *event_shape]``, to compare with; without them that comparison is left out.
        training_context: Contexts of these.
        samples: How many rows to draw.
        feature_names: One for each dimension; those of the manifest, or ``x0, x1, ...``, if absent.
        context_names: One for each context value; those of the manifest, or ``c0, c1, ...``, if absent.
        row_numbers: ``[N]``, what the rows are called in tables; 1, 2, ... if absent.
        result: What ``fit`` returned, for the loss curves.
        manifest: Of a published version, for its model card.
        title: Heading of the page.
        seed: Of the samples; torch's global generator is not touched.

    Returns:
        HTML, to be written to a file or shown in a notebook by ``IPython.display.HTML``.

    Raises:
        ShapeMismatchError: Rows, contexts or names do not fit the flow, or it has a batch shape.

    Example:
        >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> page = report_of(dist.Flow(base, bij.Affine()), torch.randn(100, 2), feature_names=["height", "weight"])
        >>> page[:15], page.count("<svg")
        ('<!doctype html>', 4)
    """
    if manifest is not None:
        feature_names = manifest.feature_names if feature_names is None else feature_names
        context_names = manifest.context_names if context_names is None else context_names
    evidence = gather(
        flow,
        rows,
        context=context,
        training_rows=training_rows,
        training_context=training_context,
        samples=samples,
        feature_names=feature_names,
        context_names=context_names,
        row_numbers=row_numbers,
        seed=seed,
    )
    parts: list[tuple[str, str, Callable[[], Section]]] = [
        ("log-density", "Log-density", lambda: density_section(evidence)),
        ("samples", "Data against samples", lambda: pairs_section(evidence)),
        ("calibration", "Calibration of the latent", lambda: calibration_section(evidence)),
        ("rows", "Least and most likely rows", lambda: rows_section(evidence)),
        ("card", "Model card", lambda: card_section(evidence, manifest)),
    ]
    if result is not None:
        parts.insert(0, ("training", "Training", lambda: training_section(result)))
    sections = [_guarded(*part) for part in parts]
    name = "Flow" if manifest is None else manifest.name
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowmodel.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=name if title is None else title,
        subtitle=_subtitle(evidence, manifest),
        numbers=[
            *_numbers(evidence, manifest, result),
            *(section.headline for section in sections if section.headline),
        ],
        sections=sections,
    )


def write_report(folder: Path, flow: Flow, rows: Rows, **given: Any) -> Path:
    """Write the page of :func:`report_of`, whose arguments it takes, as ``index.html`` into an existing directory.

    Returns:
        The file.
    """
    path = folder / "index.html"
    path.write_text(report_of(flow, rows, **given), encoding="utf-8")
    return path


def _guarded(key: str, title: str, make: Callable[[], Section]) -> Section:
    try:
        return make()
    # Whatever a figure trips over, a trained model is not to be lost by it.
    except Exception as error:
        return Section(key, title, [f"This section could not be made ({type(error).__name__}: {error})."])


def _subtitle(evidence: Evidence, manifest: Manifest | None) -> str:
    size = counted(len(evidence.names), "column")
    given = f", given {counted(len(evidence.context_names), 'other')}" if evidence.context_names else ""
    if manifest is None:
        return f"{size}{given}"
    source = f" · trained on {manifest.training['source']}" if "source" in manifest.training else ""
    return f"version {manifest.version} · {size}{given}{source} · published {manifest.created[:10]}"


def _numbers(evidence: Evidence, manifest: Manifest | None, result: FitResult | None) -> list[tuple[str, str, str]]:
    """The headline: a number, what it is, and what goes with it."""
    log_prob = evidence.held_out.log_prob
    finite = log_prob[np.isfinite(log_prob)]
    training: dict[str, Any] = {} if manifest is None else manifest.training
    rows = training.get("rows") if isinstance(training.get("rows"), dict) else {}
    numbers = []
    nll = training.get("test_nll")
    if not isinstance(nll, int | float) or not math.isfinite(nll):
        nll = -float(finite.mean()) if len(finite) else math.nan
    if math.isfinite(nll):
        count = max(int((rows or {}).get("test", 0)), len(finite))
        error = f" ± {finite.std(ddof=1) / math.sqrt(count):.2g}" if len(finite) > 1 else ""
        numbers.append((f"{nll:.4g}{error}", "test NLL [nats per row]", "mean ± standard error"))
        numbers.append(
            (f"{bits_per_dimension(nll, len(evidence.names)):.4g}", "bits per dimension", "on the test rows")
        )
    outside, missing = int(np.isneginf(log_prob).sum()), int(np.isnan(log_prob).sum())
    if outside or missing:
        left_out = f"{outside} of density 0, {missing} not scored"
        numbers.append((str(outside + missing), "held-out rows left out", left_out))
    if rows:
        parts = ", ".join(f"{short(float(number))} {name}" for name, number in rows.items())
        numbers.append((short(float(sum(rows.values()))), "rows", parts))
    else:
        numbers.append((short(float(len(log_prob))), "held-out rows", ""))
    if result is not None:
        best = f"best: {result.best_epoch}, validation NLL {result.best.validation_nll:.4g}"
        numbers.append((str(result.epochs), "epochs", best))
    if isinstance(training.get("seconds"), int | float):
        numbers.append((duration(training["seconds"]), "training time", ""))
    return numbers


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(3.21), duration(75), duration(7300)
        ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
