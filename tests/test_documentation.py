"""What the documents say is so: every setting and metric is listed, every link leads somewhere, every example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_setting_is_listed_with_its_default():
    text = (ROOT / "docs/operations.md").read_text()
    for name, field in Settings.model_fields.items():
        default = "number of cores" if field.default_factory else f"`{field.default}`"
        assert f"| `{name}` | {'none' if field.default is None else default} |" in text, name


def test_every_metric_is_listed():
    text = (ROOT / "docs/operations.md").read_text()
    families = [family.name for family in Metrics().registry.collect() if family.name.startswith("density_")]
    assert len(families) > 10
    for name in families:
        assert f"`{name}`" in text or f"`{name}_total`" in text, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_library_example_of_the_readme_runs(tmp_path):
    (example,) = (block for block in blocks("README.md", "python") if "flowmodel.fit" in block)
    subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path)


@pytest.mark.parametrize("document", ["docs/flowtorch.md", "docs/training.md"])
def test_the_library_examples_of_the_documents_run(document, tmp_path):
    (example,) = blocks(document, "python")
    subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path)


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_makefile_has_what_the_documents_name():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)
    }
    assert named <= targets
