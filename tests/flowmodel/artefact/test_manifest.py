"""The manifest: read, written, refused when newer or damaged."""

from __future__ import annotations

import json

import pytest

from flowmodel.artefact.manifest import FORMAT_VERSION, Manifest
from flowmodel.errors import ManifestError

VALUE = {
    "format_version": 1,
    "name": "wine",
    "version": 3,
    "created": "2026-01-02T03:04:05Z",
    "flowmodel_version": "0.1.0",
    "torch_version": "2.13.0",
    "plan": {"plan": "Permute", "permutation": None},
    "event_shape": [2],
    "context_shape": None,
    "feature_names": ["a", "b"],
    "context_names": [],
    "dtype": "float32",
    "base": {},
    "preprocessing": {},
    "training": {},
    "reference_log_prob": {},
    "self_check": {},
    "files": {},
}


def test_round_trip_keeps_unknown_keys():
    manifest = Manifest.from_json(json.dumps({**VALUE, "colour": ["red"]}))
    assert manifest.extra == {"colour": ["red"]}
    assert json.loads(manifest.to_json())["colour"] == ["red"]
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert (manifest.event_size, manifest.context_size, manifest.archive) == (2, 0, "wine-3.mar")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "format version 2, and this flowmodel reads up to 1; upgrade"),
        ({"format_version": None}, "format_version is None"),
        ({"event_shape": 3}, "event_shape is 3; expected list"),
        ({"dtype": "float16"}, "dtype is 'float16'; expected float32 or float64"),
        ({"files": {"../x": {"sha256": "", "bytes": 0}}}, r"files names '\.\./x'; expected a path inside"),
        ({"files": {"x": {"bytes": 0}}}, r"files\['x'\] is \{'bytes': 0\}; expected its sha256 and bytes"),
        ({"feature_names": ["a"]}, r"1 feature names for an event of shape \[2\]"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(change, text):
    with pytest.raises(ManifestError, match=text):
        Manifest.from_json(json.dumps({**VALUE, **change}))


def test_what_is_missing_is_named():
    value = {key: item for key, item in VALUE.items() if key not in ("plan", "base")}
    with pytest.raises(ManifestError, match="lacks base, plan"):
        Manifest.from_json(json.dumps(value))
    with pytest.raises(ManifestError, match="not JSON"):
        Manifest.from_json("{")
    with pytest.raises(ManifestError, match="JSON list; expected an object"):
        Manifest.from_json("[]")
