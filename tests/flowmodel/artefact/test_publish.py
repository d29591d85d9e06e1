"""Publishing: complete, checked, atomic, and safe against other publishers and against dying half-way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from flows import PLANS, contexts, normal, trained_flow

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.artefact import parity
from flowmodel.artefact import publish as publishing
from flowmodel.artefact.store import ModelStore
from flowmodel.errors import ArtefactError, ExportError, ManifestError, ModelNotFoundError
from flowmodel.runtime.noise import standard_normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("context_shape", [None, (2,)])
def test_a_version_is_complete_and_loads_again(tmp_path, dtype, context_shape):
    flow = trained_flow(PLANS["preprocessed"], (3,), context_shape, dtype)
    rows = 3 * torch.randn(100, 3, dtype=torch.float64) + 10
    context = contexts(100, context_shape, torch.float64)
    published = flowmodel.publish(flow, tmp_path, "wine", feature_names=["a", "b", "c"], rows=rows, context=context)
    assert published.path == tmp_path / "wine" / "1"
    assert sorted(path.name for path in published.path.iterdir()) == [
        "manifest.json",
        "scorer.pt",
        "weights.safetensors",
        "wine-1.mar",
    ]
    published.verify()
    manifest = published.manifest
    assert manifest.feature_names == ["a", "b", "c"]
    assert manifest.self_check["rows_checked"] == 100
    assert manifest.self_check["max_abs_difference"] <= manifest.self_check["tolerance"]
    assert manifest.reference_log_prob["log_prob"] == sorted(manifest.reference_log_prob["log_prob"])
    again = flowmodel.load(published.path)
    assert torch.equal(again.log_prob(rows, context), flow.log_prob(rows, context))
    assert again.plan == flow.plan
    with zipfile.ZipFile(published.archive_path) as archive:
        assert archive.read("scorer.pt") == published.scorer_path.read_bytes()


def test_versions_count_up_and_the_newest_is_opened(tmp_path):
    store = ModelStore(tmp_path)
    flow = dist.Flow(normal((2,)), bij.Affine())
    assert store.names() == []
    for expected in (1, 2, 3):
        assert flowmodel.publish(flow, store, "wine").version == expected
    assert store.names() == ["wine"]
    assert store.versions("wine") == [1, 2, 3]
    assert store.open("wine").version == 3
    assert store.open("wine", 2).version == 2


def test_a_conditional_flow_is_published_without_rows(tmp_path):
    flow = trained_flow(PLANS["stack"], (2,), (3,), torch.float32)
    assert flowmodel.publish(flow, tmp_path, "wine").manifest.context_names == ["c0", "c1", "c2"]


def test_publishing_leaves_the_random_state_alone(tmp_path):
    flow = dist.Flow(normal((2,)), bij.Affine())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    flowmodel.publish(flow, tmp_path, "wine")
    assert torch.equal(torch.rand(1), expected)


def test_publishers_at_the_same_time_get_a_version_each(tmp_path, request):
    flow = trained_flow(PLANS["autoregressive-exp"], (2,))
    # As often as can be another thread takes over, in the midst of compiling too.
    interval = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(interval))
    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(6) as pool:
        published = list(pool.map(lambda _: flowmodel.publish(flow, tmp_path, "wine"), range(6)))
    assert sorted(item.version for item in published) == [1, 2, 3, 4, 5, 6]
    for item in published:
        item.verify()
        assert item.archive_path.name == f"wine-{item.version}.mar"
    assert [path.name for path in (tmp_path / "wine").iterdir() if path.name.startswith(".")] == []


def test_a_number_taken_at_the_last_moment_is_passed_over(tmp_path, monkeypatch):
    flow = dist.Flow(normal((2,)), bij.Affine())
    flowmodel.publish(flow, tmp_path, "wine")
    numbers = iter([1, 2])
    monkeypatch.setattr(ModelStore, "next_version", lambda self, name: next(numbers))
    published = flowmodel.publish(flow, tmp_path, "wine")
    assert published.version == 2
    published.verify()


def test_a_publisher_killed_half_way_leaves_no_version(tmp_path):
    program = """
import sys, torch, flowmodel, flowmodel.bijectors as bij, flowmodel.distributions as dist
base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
def report(folder, manifest):
    print("staged", flush=True)
    sys.stdin.read()
flowmodel.publish(dist.Flow(base, bij.Affine()), sys.argv[1], "wine", report=report)
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        process.send_signal(signal.SIGKILL)
    store = ModelStore(tmp_path)
    assert (store.names(), store.versions("wine")) == ([], [])
    assert flowmodel.publish(dist.Flow(normal((2,)), bij.Affine()), store, "wine").version == 1
    assert store.names() == ["wine"]


def test_an_export_that_disagrees_is_refused(tmp_path, monkeypatch):
    flow = trained_flow(PLANS["stack"], (3,), dtype=torch.float32)

    def export_another(given, path, **names):
        other = trained_flow(PLANS["stack"], (3,), dtype=torch.float32)
        with torch.no_grad():
            next(other.parameters()).mul_(1.01)
        return real(other, path, **names)

    real = publishing.export_scorer
    monkeypatch.setattr(publishing, "export_scorer", export_another)
    with pytest.raises(ExportError, match=r"exported log_prob is off by up to .* nats on 256 rows.*refused"):
        flowmodel.publish(flow, tmp_path, "wine")
    assert ModelStore(tmp_path).names() == []
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_samples_otherwise_is_refused(tmp_path, monkeypatch):
    flow = trained_flow(PLANS["stack"], (3,), dtype=torch.float32)
    monkeypatch.setattr(parity, "standard_normal", lambda *given: standard_normal(*given) + 1e-3)
    with pytest.raises(ExportError, match=r"exported samples are off by up to .* on 256 rows.*refused"):
        flowmodel.publish(flow, tmp_path, "wine")


@pytest.mark.parametrize("name", ["", "Wine", "../wine", ".wine", "a/b", "x" * 65])
def test_a_name_that_no_model_can_have_is_refused(tmp_path, name):
    with pytest.raises(ArtefactError, match="expected 1 to 64 of a-z"):
        flowmodel.publish(dist.Flow(normal((2,)), bij.Affine()), tmp_path, name)
    assert list(tmp_path.parent.glob("wine")) == []


@pytest.mark.parametrize("export", [flowmodel.publish, lambda flow, folder, _: flowmodel.export_scorer(flow, folder)])
def test_a_plan_is_no_flow_to_publish(tmp_path, export):
    with pytest.raises(ExportError, match=r"flow=AffineAutoregressive\(.*given; expected a flow, such as dist.Flow\("):
        export(bij.AffineAutoregressive(), tmp_path, "pair")


def test_a_model_given_for_a_version_is_told_apart(tmp_path):
    for _ in range(2):
        flowmodel.publish(dist.Flow(normal((2,)), bij.Affine()), tmp_path, "pair")
    with pytest.raises(ModelNotFoundError, match=r"it is a model, load a version of it such as .*pair/2$"):
        flowmodel.load(tmp_path / "pair")


def test_what_is_not_there_is_named_with_what_is(tmp_path):
    flowmodel.publish(dist.Flow(normal((2,)), bij.Affine()), tmp_path, "wine")
    store = ModelStore(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no model 'beer' in .*; models there: wine"):
        store.open("beer")
    with pytest.raises(ModelNotFoundError, match="model 'wine' has no version 7; its versions: 1"):
        store.open("wine", 7)
    with pytest.raises(ModelNotFoundError, match="no published version"):
        flowmodel.load(tmp_path / "wine" / "9")


@pytest.mark.parametrize("name", ["scorer.pt", "wine-1.mar", "weights.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    published = flowmodel.publish(dist.Flow(normal((2,)), bij.Affine()), tmp_path, "wine")
    content = bytearray((published.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (published.path / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=re.escape(name) + r" is not the file that was published"):
        published.verify()
    (published.path / name).unlink()
    with pytest.raises(ArtefactError, match=re.escape(name) + " is missing"):
        published.verify()


def test_a_directory_copied_by_hand_is_refused(tmp_path):
    published = flowmodel.publish(dist.Flow(normal((2,)), bij.Affine()), tmp_path, "wine")
    published.path.rename(tmp_path / "wine" / "5")
    with pytest.raises(ManifestError, match="manifest of wine version 1; version directories cannot be renamed"):
        ModelStore(tmp_path).open("wine")


def test_self_check_rows_are_answered_as_written(tmp_path):
    flow = trained_flow(PLANS["stack"], (3,), dtype=torch.float32)
    manifest = flowmodel.publish(flow, tmp_path, "wine").manifest
    rows = torch.tensor(manifest.self_check["rows"])
    assert len(rows) == 8
    np.testing.assert_allclose(
        flow.log_prob(rows).detach().numpy(), manifest.self_check["log_prob"], atol=manifest.self_check["tolerance"]
    )
    assert json.loads((tmp_path / "wine/1/manifest.json").read_text())["format_version"] == 1
