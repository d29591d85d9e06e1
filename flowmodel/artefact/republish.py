"""Publishing a version once more: in another store, or under another name."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from flowmodel.artefact.publish import write_version
from flowmodel.artefact.remote_store import open_store
from flowmodel.artefact.store import ModelStore, PublishedModel
from flowmodel.errors import ExportError
from flowmodel.runtime.scoring import Scorer


def republish(source: PublishedModel, store: str | Path | ModelStore, name: str | None = None) -> PublishedModel:
    """Publish the scorer, weights and report of a version as the next version of a model, with an archive of its own.

    Args:
        source: the version to copy; its files are verified, and its self check is run on this machine.
        store: where to publish.
        name: name of the model there; that of the source by default.

    Raises:
        ArtefactError: a file of the source is damaged, the name is no model name, or the store cannot be written.
        ExportError: the scorer does not answer here what its manifest says.
    """
    store = open_store(store)
    name = source.name if name is None else name
    source.verify()
    _self_check(source)
    with store.staging(name) as staged:
        for path in source.manifest.files:
            if path != source.manifest.archive:
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.path / path, staged / path)
        version = store.next_version(name)
        while True:
            manifest = dataclasses.replace(source.manifest, name=name, version=version)
            write_version(staged, manifest, None)
            if store.commit(staged, name, version):
                return store.open(name, version)
            (staged / manifest.archive).unlink()
            version = max(version + 1, store.next_version(name))


def _self_check(source: PublishedModel) -> None:
    check = source.manifest.self_check
    if not check.get("rows"):
        return
    rows = np.asarray(check["rows"], dtype=np.float64)
    context = None if check.get("context") is None else np.asarray(check["context"], dtype=np.float64)
    answered = Scorer.load(source.scorer_path).log_prob(rows, context)
    off = float(np.abs(answered - np.asarray(check["log_prob"])).max())
    if not off <= check["tolerance"]:
        raise ExportError(
            f"{source.path}: the scorer answers log-densities up to {off:.3g} nats off those of its manifest, where "
            f"{check['tolerance']:.3g} is allowed; train and publish the model again"
        )
