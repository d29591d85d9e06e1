"""The ``.mar``: a scorer and the code that serves it, in the archive format of TorchServe."""

from __future__ import annotations

import json
import zipfile
from importlib import resources
from pathlib import Path

from flowmodel.errors import ExportError

HANDLER = "flowmodel_runtime.density_handler"
"""The handler's module inside the archive: the runtime package under a name of its own, so that the archive serves
with the code it was made with even where another ``flowmodel`` is installed."""

_EPOCH = (1980, 1, 1, 0, 0, 0)

_MODEL_CONFIG = """\
minWorkers: 1
maxWorkers: 1
# Counts requests, not rows. A delay of 1 ms takes what is queued and waits no longer.
batchSize: 16
maxBatchDelay: 1
responseTimeout: 120
startupTimeout: 120
"""


def write_archive(path: Path, *, name: str, version: int, scorer: Path) -> None:
    """Write a ``.mar`` that any TorchServe of 0.12 loads; the same input gives the same bytes.

    Args:
        path: file to write.
        name: the model's name in TorchServe.
        version: its version.
        scorer: the ``scorer.pt`` to put in.

    Raises:
        ExportError: the scorer cannot be read or the archive not written.

    Example:
        >>> write_archive(Path("wine-3.mar"), name="wine", version=3, scorer=Path("scorer.pt"))    # doctest: +SKIP
    """
    manifest = {
        "createdOn": "01/01/1980 00:00:00",
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": name,
            "modelVersion": str(version),
            "handler": HANDLER,
            "serializedFile": "scorer.pt",
            "configFile": "model-config.yaml",
        },
    }
    try:
        with zipfile.ZipFile(path, "w") as archive:
            _write(archive, "MAR-INF/MANIFEST.json", json.dumps(manifest, indent=2).encode())
            _write(archive, "model-config.yaml", _MODEL_CONFIG.encode())
            for module, source in _runtime_sources():
                _write(archive, f"flowmodel_runtime/{module}", source)
            _write(archive, "scorer.pt", scorer.read_bytes())
    except OSError as error:
        raise ExportError(f"cannot write the archive {path} from {scorer}: {error}") from error


def _runtime_sources() -> list[tuple[str, bytes]]:
    """File name and text of each runtime module, in order of name."""
    folder = resources.files("flowmodel.runtime")
    modules = [entry for entry in folder.iterdir() if entry.name.endswith(".py")]
    return [(entry.name, entry.read_bytes()) for entry in sorted(modules, key=lambda entry: entry.name)]


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)
