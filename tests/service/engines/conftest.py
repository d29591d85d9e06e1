"""Models for engines to load: real exported flows, and scorers with a fault in them."""

import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.archive import write_archive
from flowmodel.artefact.scorer import export_scorer
from service.engines.engine import ModelKey
from service.engines.inprocess import InProcessEngine
from service.engines.torchserve.engine import TorchServeEngine
from service.engines.torchserve.options import TorchServeOptions


@dataclass(frozen=True)
class Published:
    """What an engine needs of a published model."""

    name: str
    version: int
    scorer_path: Path
    archive_path: Path
    event_size: int

    @property
    def key(self) -> ModelKey:
        return ModelKey(self.name, self.version)

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(event_size=self.event_size)


class FragileScorer(torch.nn.Module):
    """Density: how many rows were in the call. Fails when a value is 666; the handler around it dies at 667."""

    event_size: int
    context_size: int
    feature_names: list[str]
    context_names: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.event_size, self.context_size = 2, 0
        self.feature_names, self.context_names = ["a", "b"], []

    @torch.jit.export
    def log_prob(self, rows: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        if bool((rows == 666.0).any()):
            raise RuntimeError("the model met the number it cannot bear")
        return torch.full([rows.size(0)], float(rows.size(0)))

    @torch.jit.export
    def sample(self, noise: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return noise.float(), noise.float().sum(1)


_DYING_HANDLER = b"""
import os, signal
import flowmodel_runtime.density_handler as original

class DyingHandler(original.DensityHandler):
    def handle(self, data, context):
        for index, item in enumerate(data):
            rows = self._read(index, item, context).task.rows
            if rows is not None and (rows == 667).any():
                os.kill(os.getpid(), signal.SIGKILL)
        return super().handle(data, context)
"""


class Shelf:
    """Makes published models in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def flow(self, name: str, version: int, dims: int, context: int = 0) -> Published:
        """A random flow, another for each version."""
        base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(dims), torch.ones(dims)), 1)
        plan = bij.AffineAutoregressive(params.DenseAutoregressive(hidden_dims=(64, 64)))
        flow = dist.Flow(base, plan, context_shape=(context,) if context else None)
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return self._publish(name, version, export_scorer(flow, self._scorer(name, version)), dims)

    def fragile(self, name: str) -> Published:
        """A scorer that fails, in a worker that dies, on command."""
        path = self._scorer(name, 1)
        torch.jit.save(torch.jit.script(FragileScorer()), str(path))
        published = self._publish(name, 1, path, 2)
        with zipfile.ZipFile(published.archive_path) as archive:
            files = {entry: archive.read(entry) for entry in archive.namelist()}
        manifest = json.loads(files["MAR-INF/MANIFEST.json"])
        manifest["model"]["handler"] = "dying_handler.py"
        files |= {"MAR-INF/MANIFEST.json": json.dumps(manifest).encode(), "dying_handler.py": _DYING_HANDLER}
        with zipfile.ZipFile(published.archive_path, "w") as archive:
            for entry, data in files.items():
                archive.writestr(entry, data)
        return published

    def broken(self, name: str) -> Published:
        """An archive whose scorer is not one."""
        path = self._scorer(name, 1)
        path.write_bytes(b"not TorchScript")
        return self._publish(name, 1, path, 2)

    def _scorer(self, name: str, version: int) -> Path:
        return self._folder / f"{name}-{version}.pt"

    def _publish(self, name: str, version: int, scorer: Path, dims: int) -> Published:
        archive = self._folder / f"{name}-{version}.mar"
        write_archive(archive, name=name, version=version, scorer=scorer)
        return Published(name, version, scorer, archive, dims)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The engines are started once, so their tests share one event loop."""
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def plain(shelf: Shelf) -> Published:
    """Unconditional, 3 features, loaded in both engines."""
    return shelf.flow("plain", 1, 3)


@pytest.fixture(scope="session")
def conditional(shelf: Shelf) -> Published:
    """5 features and a context of 2, loaded in both engines, its name one that TorchServe refuses of a file."""
    return shelf.flow("with..context", 1, 5, context=2)


@pytest.fixture(scope="session")
def fragile(shelf: Shelf) -> Published:
    """Fails on command; loaded in both engines."""
    return shelf.fragile("fragile")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def inprocess(plain: Published, conditional: Published, fragile: Published) -> AsyncIterator[InProcessEngine]:
    engine = InProcessEngine(2)
    await engine.start()
    for published in (plain, conditional, fragile):
        await engine.load(published)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def torchserve(plain: Published, conditional: Published, fragile: Published) -> AsyncIterator[TorchServeEngine]:
    """A real TorchServe, put to batching calls itself so that there is something to see."""
    engine = TorchServeEngine(TorchServeOptions(threads=2, batch_size=8))
    await engine.start()
    try:
        for published in (plain, conditional, fragile):
            await engine.load(published)
        yield engine
    finally:
        await engine.close()
