"""Publishing: the whole artefact of a flow, checked, and made visible in one rename."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import flowmodel
from flowmodel.artefact.archive import write_archive
from flowmodel.artefact.manifest import SCORER, WEIGHTS, Manifest
from flowmodel.artefact.parity import check_parity
from flowmodel.artefact.remote_store import open_store
from flowmodel.artefact.scorer import check_exportable, export_scorer
from flowmodel.artefact.store import ModelStore, PublishedModel, sha256_of
from flowmodel.artefact.weights import save_weights
from flowmodel.bijectors.standardize import StandardizeBijector
from flowmodel.bijectors.supports import supports_of
from flowmodel.distributions import Flow
from flowmodel.runtime.scoring import Scorer

PROBABILITIES = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]
"""Where the quantiles of the held-out log-density are taken."""

Report = Callable[[Path, Manifest], None]
"""Writes the report of a version into a directory, before the version is published."""


def publish(
    flow: Flow,
    store: str | Path | ModelStore,
    name: str,
    *,
    feature_names: Sequence[str] | None = None,
    context_names: Sequence[str] | None = None,
    rows: npt.ArrayLike | torch.Tensor | None = None,
    context: npt.ArrayLike | torch.Tensor | None = None,
    training: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> PublishedModel:
    """Publish a flow as the next version of a model.

    Args:
        flow: the trained flow; it is left as it is.
        store: the model store, or its directory.
        name: name of the model.
        feature_names: a name for each dimension; ``x0, x1, ...`` if absent.
        context_names: a name for each context value; ``c0, c1, ...`` if absent.
        rows: held-out rows ``[N, *event_shape]``, on which exported and eager flow are compared and the reference
            quantiles taken; samples of the flow if absent.
        context: the contexts of ``rows``, or for a conditional flow without ``rows`` those to sample for.
        training: what to record of the training.
        report: writes pictures and page into the directory it is given.

    Returns:
        The published version.

    Raises:
        ExportError: a part cannot be exported, or the export disagrees with the flow.
        ArtefactError: the name is no model name, or the store cannot be written.

    Example:
        >>> import tempfile, torch, flowmodel, flowmodel.bijectors as bij, flowmodel.distributions as dist
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> with tempfile.TemporaryDirectory() as store:
        ...     published = flowmodel.publish(dist.Flow(base, bij.AffineAutoregressive()), store, "example")
        ...     published.name, published.version
        ('example', 1)
    """
    store = open_store(store)
    check_exportable(flow)
    flat_rows, flat_context = held_out(flow, rows, context)
    with store.staging(name) as staged:
        export_scorer(flow, staged / SCORER, feature_names=feature_names, context_names=context_names)
        scorer = Scorer.load(staged / SCORER)
        parity = check_parity(flow, scorer, flat_rows, flat_context)
        save_weights(flow, staged / WEIGHTS)
        log_prob = scorer.log_prob(flat_rows, flat_context)
        version = store.next_version(name)
        while True:
            manifest = _manifest(flow, scorer, name, version, training or {})
            manifest = _with(manifest, reference_log_prob=_quantiles(log_prob))
            manifest = _with(manifest, self_check=_self_check(flat_rows, flat_context, log_prob, parity))
            write_version(staged, manifest, report)
            if store.commit(staged, name, version):
                return store.open(name, version)
            # Another publisher took the number: what bears it is written again.
            (staged / manifest.archive).unlink()
            version = max(version + 1, store.next_version(name))


def held_out(
    flow: Flow, rows: npt.ArrayLike | torch.Tensor | None, context: npt.ArrayLike | torch.Tensor | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """Rows ``[N, D]`` and contexts ``[N, C]`` to check a flow on: those given, else 256 samples of the flow itself."""
    flat_context = None if context is None else _matrix(context, flow.bijector.context_size)
    if flow.context_shape is not None and flat_context is None:
        location, scale = flow.context_location.cpu().numpy(), flow.context_scale.cpu().numpy()
        drawn = np.random.default_rng(0).standard_normal(
            (256 if rows is None else len(_matrix(rows, -1)), len(location))
        )
        flat_context = location + scale * drawn
    if rows is not None:
        return _matrix(rows, flow.bijector.event_size), flat_context
    given = None if flat_context is None else torch.as_tensor(flat_context).reshape(-1, *(flow.context_shape or ()))
    # A fork of the generator: publishing must not change what a seeded program draws next.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        count = () if given is None else (len(given),)
        samples = flow.sample(count or (256,), None if given is None else given.to(flow.context_location.device))
    return _matrix(samples, flow.bijector.event_size), flat_context


def _matrix(values: npt.ArrayLike | torch.Tensor, width: int) -> npt.NDArray[np.float64]:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return np.ascontiguousarray(array.reshape(len(array), width), dtype=np.float64)


def _manifest(flow: Flow, scorer: Scorer, name: str, version: int, training: Mapping[str, Any]) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        flowmodel_version=flowmodel.__version__,
        torch_version=torch.__version__,
        plan=flow.plan.to_json(),
        event_shape=list(flow.event_shape),
        context_shape=None if flow.context_shape is None else list(flow.context_shape),
        feature_names=list(scorer.feature_names),
        context_names=list(scorer.context_names),
        dtype=str(flow.dtype).removeprefix("torch."),
        base=flow.base_to_json(),
        preprocessing=_preprocessing(flow, scorer.feature_names),
        training=dict(training),
        reference_log_prob={},
        self_check={},
        files={},
    )


def _with(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest(**{**vars(manifest), **changes})


def _preprocessing(flow: Flow, feature_names: Sequence[str]) -> dict[str, Any]:
    layers = [part for part in flow.bijector.modules() if isinstance(part, StandardizeBijector)]
    standardize = [{"location": part.location.tolist(), "scale": part.scale.tolist()} for part in layers]
    context = {"location": flow.context_location.tolist(), "scale": flow.context_scale.tolist()}
    preprocessing: dict[str, Any] = {
        "standardize": standardize,
        "context": context if flow.context_shape is not None else None,
    }
    last = supports_of(flow.bijector)
    if last is not None:
        cuts = last.cuts()
        preprocessing["supports"] = {
            name: {**support.to_json(), **({"cut": cuts[column]} if column in cuts else {})}
            for column, (name, support) in enumerate(zip(feature_names, last.supports, strict=True))
        }
    return preprocessing


def _quantiles(log_prob: npt.NDArray[Any]) -> dict[str, Any]:
    finite = log_prob[np.isfinite(log_prob)].astype(np.float64)
    if not len(finite):
        return {"probabilities": [], "log_prob": [], "rows": 0}
    values = np.quantile(finite, PROBABILITIES)
    return {"probabilities": PROBABILITIES, "log_prob": values.tolist(), "rows": len(finite)}


def _self_check(
    rows: npt.NDArray[np.float64],
    context: npt.NDArray[np.float64] | None,
    log_prob: npt.NDArray[Any],
    parity: Mapping[str, Any],
) -> dict[str, Any]:
    """A few rows around the middle of the log-density, which any engine must answer alike."""
    finite = np.flatnonzero(np.isfinite(log_prob))
    middle = finite[np.argsort(log_prob[finite])][len(finite) // 4 :][:8]
    return {
        "rows": rows[middle].tolist(),
        "context": None if context is None else context[middle].tolist(),
        "log_prob": log_prob[middle].astype(np.float64).tolist(),
        **parity,
    }


def write_version(staged: Path, manifest: Manifest, report: Report | None) -> None:
    """Complete a staged version: archive, report, and the manifest with the SHA-256 of every file."""
    write_archive(staged / manifest.archive, name=manifest.name, version=manifest.version, scorer=staged / SCORER)
    if report is not None:
        (staged / "report").mkdir(exist_ok=True)
        report(staged / "report", manifest)
    (staged / "manifest.json").unlink(missing_ok=True)
    paths = sorted(path for path in staged.rglob("*") if path.is_file())
    files = {
        path.relative_to(staged).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths
    }
    (staged / "manifest.json").write_text(_with(manifest, files=files).to_json() + "\n", encoding="utf-8")
