"""The weights beside the manifest: all that is needed to build the eager flow again, without pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flowmodel.artefact.manifest import WEIGHTS, Manifest
from flowmodel.bijectors.base import BijectorPlan
from flowmodel.distributions import Flow, base_from_json
from flowmodel.errors import ArtefactError, ManifestError, ModelNotFoundError
from flowmodel.plans import plan_from_json


def save_weights(flow: Flow, path: Path) -> None:
    """Write the state dict of a flow as safetensors.

    Raises:
        ArtefactError: the file cannot be written.
    """
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in flow.state_dict().items()}, path)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"cannot write the weights {path}: {error}") from None


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Flow:
    """The eager flow of a published version, to score, sample or go on training.

    Args:
        path: directory of the version, such as ``model_store/demo/3``.
        device: where to put it.

    Raises:
        ModelNotFoundError: there is no such directory.
        ManifestError: the manifest cannot be read.
        ArtefactError: the weights are missing or do not fit the plan.
    """
    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        names = [found.parent.name for found in folder.glob("*/manifest.json")]
        below = sorted(int(name) for name in names if name.isdecimal())
        instead = f"; it is a model, load a version of it such as {folder / str(below[-1])}" if below else ""
        raise ModelNotFoundError(f"{folder} is no published version: it has no manifest.json{instead}")
    manifest = Manifest.from_json((folder / "manifest.json").read_text(encoding="utf-8"))
    plan = plan_from_json(manifest.plan)
    if not isinstance(plan, BijectorPlan):
        raise ManifestError(f"the plan of {folder} is {type(plan).__name__}; expected the plan of a bijector")
    context_shape = None if manifest.context_shape is None else tuple(manifest.context_shape)
    flow = Flow(base_from_json(manifest.base), plan, context_shape=context_shape)
    try:
        flow.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtefactError(f"{folder / WEIGHTS} cannot be loaded into the plan of its manifest: {error}") from None
    return flow.to(device)
