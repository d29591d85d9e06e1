"""The promises of docs/architecture.md about who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = [
    "errors",
    "plans",
    "supports",
    "data",
    "parameters",
    "kernel",
    "bijectors",
    "distributions",
    "training",
    "runtime",
    "artefact",
    "report",
    "cli",
]
"""Of ``flowmodel``, in order: a room imports only those above it."""

SERVICE_MAY_IMPORT = (
    "flowmodel.errors",
    "flowmodel.runtime",
    "flowmodel.artefact.manifest",
    "flowmodel.artefact.remote_store",
    "flowmodel.artefact.rollout",
    "flowmodel.artefact.serving",
    "flowmodel.artefact.store",
)


def imports(path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def sources(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "generated" not in path.parts]


@pytest.mark.parametrize("path", sources("flowmodel"), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_of_the_library_import_only_those_above(path):
    room = path.relative_to(ROOT / "flowmodel").with_suffix("").parts[0]
    if room in ("__init__", "__main__"):
        return
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] != "service", f"{path} imports {name}"
        if parts[0] == "flowmodel" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {name}"


@pytest.mark.parametrize("path", sources("service"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_service_meets_the_library_only_in_the_artefact(path):
    for name in imports(path):
        if name.split(".")[0] == "flowmodel":
            assert name.startswith(SERVICE_MAY_IMPORT) or name == "flowmodel.__version__", f"{path} imports {name}"


@pytest.mark.parametrize("path", sources("flowmodel/runtime"), ids=lambda path: path.name)
def test_what_travels_in_the_archive_needs_numpy_and_torch_alone(path):
    for name in imports(path):
        top = name.split(".")[0]
        allowed = top in sys.stdlib_module_names or top in ("numpy", "torch") or name.startswith("flowmodel.runtime")
        # The native code is used where it is installed, and done without where it is not.
        allowed |= path.name == "native.py" and name.startswith("flowmodel.kernel")
        assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("service.client", ["torch", "pydantic", "starlette", "pyarrow", "flowmodel.artefact"]),
        ("flowmodel.artefact.store", ["torch", "numpy", "pyarrow", "matplotlib"]),
        ("flowmodel.runtime.envelope", ["pyarrow", "matplotlib", "flowmodel.bijectors"]),
        ("flowmodel", ["torch", "pyarrow", "matplotlib"]),
        ("service.processes.parent", ["torch", "grpc", "starlette", "uvicorn", "pyarrow"]),
    ],
)
def test_a_light_import_stays_light(module, heavy):
    program = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == []
