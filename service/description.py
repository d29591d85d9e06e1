"""What ``GetModel`` and ``ListModels`` say of a model, on the wire and in JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.generated.density.v1 import density_service_pb2 as pb
from service.registry import ModelRegistry, ServedModel
from service.tensors import data_type

MAX_PAGE_SIZE = 100


def describe_version(served: ServedModel) -> dict[str, Any]:
    """One loaded version as JSON-able values; keys are the wire's field names."""
    manifest = served.manifest
    described: dict[str, Any] = {
        "version": str(served.key.version),
        "create_time": manifest.created,
        "data_type": manifest.dtype,
        "event_shape": list(served.signature.event_shape),
        "feature_names": list(served.signature.feature_names),
        "context_shape": list(served.signature.context_shape or ()),
        "context_names": list(served.signature.context_names),
    }
    nll = held_out_nll(served)
    if nll is not None:
        described["held_out_nll"] = nll
    reference = manifest.reference_log_prob or {}
    if reference.get("log_prob"):
        described["reference_log_prob"] = {
            "probabilities": list(reference["probabilities"]),
            "log_prob": list(reference["log_prob"]),
            "rows": int(reference.get("rows", 0)),
        }
    return described


def describe_model(registry: ModelRegistry, name: str, version: str = "") -> dict[str, Any]:
    """A model and its loaded versions, or the one version asked for.

    Raises:
        NotFound: no such model or version is loaded.
    """
    versions = [] if version else registry.versions(name)
    if not versions:
        versions = [registry.resolve(name, version)]
    default = registry.default(name)
    return {
        "name": name,
        "default_version": str(default.key.version) if default is not None else "",
        "versions": [describe_version(served) for served in versions],
    }


def list_models(registry: ModelRegistry, page_size: int = 0, page_token: str = "") -> tuple[list[dict[str, Any]], str]:
    """One page of the models, and the token of the next page, empty on the last.

    The token is the last name of the page before, so that models that come and go between pages confuse nobody.
    """
    size = min(page_size, MAX_PAGE_SIZE) if page_size > 0 else MAX_PAGE_SIZE
    names = [name for name in registry.names() if name > page_token]
    page = names[:size]
    return [describe_model(registry, name) for name in page], page[-1] if len(names) > size else ""


def model_message(described: dict[str, Any]) -> pb.Model:
    """A described model as the wire's message."""
    message = pb.Model(name=described["name"], default_version=described["default_version"])
    for values in described["versions"]:
        version = message.versions.add(
            version=values["version"],
            data_type=data_type_named(values["data_type"]),
            event_shape=values["event_shape"],
            feature_names=values["feature_names"],
            context_shape=values["context_shape"],
            context_names=values["context_names"],
        )
        version.create_time.FromJsonString(values["create_time"])
        if "held_out_nll" in values:
            version.held_out_nll = values["held_out_nll"]
        if "reference_log_prob" in values:
            version.reference_log_prob.CopyFrom(pb.ReferenceLogProb(**values["reference_log_prob"]))
    return message


def data_type_named(name: str) -> pb.DataType.ValueType:
    """``DATA_TYPE_FLOAT32`` for ``float32``."""
    return data_type(np.dtype(name))


def held_out_nll(served: ServedModel) -> float | None:
    """Mean negative log-likelihood, in nats per row, of the test split, or else of the validation split."""
    for key in ("test_nll", "validation_nll"):
        value = served.manifest.training.get(key)
        if isinstance(value, int | float):
            return float(value)
    return None
