"""The archive is the same for the same input, and serves without this package."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.artefact.archive import write_archive
from flowmodel.artefact.scorer import export_scorer
from flowmodel.errors import ExportError


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    return export_scorer(dist.Flow(base, bij.AffineAutoregressive()), tmp_path / "scorer.pt")


def test_same_input_same_bytes(scorer: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.mar", "b.mar")]
    for path in paths:
        write_archive(path, name="wine", version=3, scorer=scorer)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_contents(scorer: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "a.mar", name="wine", version=3, scorer=scorer)
    with zipfile.ZipFile(tmp_path / "a.mar") as archive:
        assert archive.testzip() is None
        model = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
        assert (model["modelName"], model["modelVersion"]) == ("wine", "3")
        assert model["handler"].replace(".", "/") + ".py" in archive.namelist()
        assert archive.read(model["serializedFile"]) == scorer.read_bytes()
        config = yaml.safe_load(archive.read(model["configFile"]))
    assert (config["minWorkers"], config["maxWorkers"]) == (1, 1)
    assert config["maxBatchDelay"] == 1, "TorchServe takes 0 for its default of 100 ms"


def test_serves_where_this_package_is_not_installed(scorer: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "a.mar", name="wine", version=3, scorer=scorer)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(tmp_path / "a.mar") as archive:
        archive.extractall(folder)
    program = """
import importlib, json, sys, types
sys.modules["flowmodel"] = None                       # an import of it would fail
module = importlib.import_module("flowmodel_runtime.density_handler")
context = types.SimpleNamespace(
    system_properties={"model_dir": ".", "gpu_id": None}, model_yaml_config={},
    manifest=json.load(open("MAR-INF/MANIFEST.json")), get_request_header=lambda index, key: {},
    set_response_content_type=lambda index, value: None,
)
handler = module.DensityHandler()
handler.initialize(context)
print(handler.handle([{"body": {"rows": [[0, 0]]}}], context)[0].decode())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {"model": "wine", "version": "3", "log_prob": [-1.837877]}


def test_a_missing_scorer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no-such\.pt"):
        write_archive(tmp_path / "a.mar", name="wine", version=1, scorer=tmp_path / "no-such.pt")
