"""The manifest: what a published version says of itself. Standard library only, for both halves read it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from flowmodel.errors import ManifestError

FORMAT_VERSION = 1
"""The format that this code writes, and the newest that it reads."""

SCORER = "scorer.pt"
WEIGHTS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything about one version but its weights.

    Args:
        name: name of the model.
        version: whole number, counted up by publish.
        created: time of publication, RFC 3339 in UTC.
        flowmodel_version: version of this library.
        torch_version: version of torch that exported.
        plan: the plan, as JSON values.
        event_shape: shape of one event.
        context_shape: shape of one context; ``None`` where there is none.
        feature_names: one for each dimension, in order.
        context_names: one for each context value, in order.
        dtype: ``float32`` or ``float64``, that of the answers.
        base: the base distribution, as JSON values.
        preprocessing: location and scale of the standardisation, which the scorer applies itself.
        training: fingerprint and rows of the data, splits, seed, epochs, negative log-likelihoods.
        reference_log_prob: quantiles of the log-density of held-out rows.
        self_check: a few rows, the log-densities they must be answered with, and how far off an answer may be.
        files: for each file of the version, its SHA-256 and its length in bytes.
        format_version: format of the manifest.
        extra: keys that this version of the code does not know; kept as they are.
    """

    name: str
    version: int
    created: str
    flowmodel_version: str
    torch_version: str
    plan: dict[str, Any]
    event_shape: list[int]
    context_shape: list[int] | None
    feature_names: list[str]
    context_names: list[str]
    dtype: str
    base: dict[str, Any]
    preprocessing: dict[str, Any]
    training: dict[str, Any]
    reference_log_prob: dict[str, Any]
    self_check: dict[str, Any]
    files: dict[str, dict[str, Any]]
    format_version: int = FORMAT_VERSION
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def event_size(self) -> int:
        """Number of scalars in an event."""
        return math.prod(self.event_shape)

    @property
    def context_size(self) -> int:
        """Number of scalars in a context; 0 where there is none."""
        return 0 if self.context_shape is None else math.prod(self.context_shape)

    @property
    def archive(self) -> str:
        """File name of the TorchServe archive."""
        return f"{self.name}-{self.version}.mar"

    def to_json(self) -> str:
        """The manifest as JSON text, unknown keys among the others."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "extra"}
        return json.dumps({"format_version": self.format_version, **known, **self.extra}, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            ManifestError: the text is not JSON, a key is missing or of a wrong type, or the format is too new.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ManifestError(f"the manifest is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ManifestError(f"the manifest is a JSON {type(value).__name__}; expected an object")
        written = value.get("format_version")
        if not isinstance(written, int):
            raise ManifestError(f"format_version is {written!r}; expected a whole number")
        if written > FORMAT_VERSION:
            raise ManifestError(
                f"the manifest has format version {written}, and this flowmodel reads up to {FORMAT_VERSION}; "
                "upgrade flowmodel, or publish the model again with this version"
            )
        fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "extra"}
        missing = sorted(set(fields) - set(value))
        if missing:
            raise ManifestError(f"the manifest lacks {', '.join(missing)}")
        _check_types(value)
        extra = {key: value[key] for key in value if key not in fields}
        return cls(**{key: value[key] for key in fields}, extra=extra)


def _check_types(value: Mapping[str, Any]) -> None:
    expected: dict[str, tuple[type, ...]] = {
        "name": (str,),
        "version": (int,),
        "plan": (dict,),
        "event_shape": (list,),
        "context_shape": (list, type(None)),
        "feature_names": (list,),
        "context_names": (list,),
        "dtype": (str,),
        "training": (dict,),
        "reference_log_prob": (dict,),
        "self_check": (dict,),
        "files": (dict,),
    }
    for key, types in expected.items():
        if not isinstance(value[key], types):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise ManifestError(f"{key} is {value[key]!r}; expected {names}")
    for path, file in value["files"].items():
        if path.startswith("/") or ".." in path.split("/"):
            raise ManifestError(f"files names {path!r}; expected a path inside the version's directory")
        if (
            not isinstance(file, dict)
            or not isinstance(file.get("sha256"), str)
            or not isinstance(file.get("bytes"), int)
        ):
            raise ManifestError(f"files[{path!r}] is {file!r}; expected its sha256 and bytes")
    if value["dtype"] not in ("float32", "float64"):
        raise ManifestError(f"dtype is {value['dtype']!r}; expected float32 or float64")
    if len(value["feature_names"]) != math.prod(value["event_shape"]):
        raise ManifestError(
            f"{len(value['feature_names'])} feature names for an event of shape {value['event_shape']}; "
            "expected one for each dimension"
        )
