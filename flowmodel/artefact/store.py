"""The model store: ``NAME/VERSION/`` directories that appear in one rename and never change.

Beside them ``NAME/serving.json`` says which of them answer. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flowmodel.artefact.manifest import SCORER, Manifest
from flowmodel.artefact.serving import SERVING, Serving
from flowmodel.errors import ArtefactError, ManifestError, ModelNotFoundError, ServingError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_STAGING = ".staging-"
_STALE_SECONDS = 3600.0
"""Locks may not reach from one machine to another, so a directory that was touched lately is left alone."""


class PublishedModel:
    """One published version.

    Args:
        path: its directory.
        manifest: what it says of itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.manifest.version

    @property
    def scorer_path(self) -> Path:
        """The TorchScript scorer."""
        return self.path / SCORER

    @property
    def archive_path(self) -> Path:
        """The TorchServe archive."""
        return self.path / self.manifest.archive

    def verify(self) -> None:
        """Compare length and SHA-256 of every file with the manifest.

        Raises:
            ArtefactError: a file is missing, or is not the one that was published; the text names it.
        """
        for name, published in self.manifest.files.items():
            path = self.path / name
            if not path.is_file():
                raise ArtefactError(f"{path} is missing, and the manifest lists it; publish the model again")
            if path.stat().st_size != published["bytes"] or sha256_of(path) != published["sha256"]:
                raise ArtefactError(
                    f"{path} is not the file that was published (SHA-256 differs); publish the model again"
                )


class ModelStore:
    """A directory of published models.

    Args:
        root: the directory; made when something is published.

    Attributes:
        place: how the store is called in texts.

    Example:
        >>> ModelStore("no/such/directory").names()
        []
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.place = str(root)

    def exists(self) -> bool:
        """Whether the store is there now."""
        return self.root.is_dir()

    def names(self) -> list[str]:
        """Names of the models with at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if is_name(entry.name) and self.versions(entry.name))

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending; empty if there is no such model."""
        folder = self.root / name
        if not is_name(name) or not folder.is_dir():
            return []
        found = (entry.name for entry in folder.iterdir() if (entry / "manifest.json").is_file())
        return sorted(int(entry) for entry in found if re.fullmatch(r"[1-9][0-9]{0,17}", entry))

    def open(self, name: str, version: int | None = None) -> PublishedModel:
        """A published version, the newest if none is named.

        Raises:
            ModelNotFoundError: there is no such model or version; the text lists what there is.
            ManifestError: its manifest cannot be read, or is of another version than its directory says.
        """
        wanted = self.check_version(name, version)
        return PublishedModel(self.root / name / str(wanted), self.manifest(name, wanted))

    def manifest(self, name: str, version: int | None = None) -> Manifest:
        """What a version says of itself, the newest if none is named.

        Raises:
            ModelNotFoundError: there is no such model or version; the text lists what there is.
            ManifestError: it cannot be read, or is of another version than its directory says.
        """
        wanted = self.check_version(name, version)
        path = self.root / name / str(wanted)
        try:
            manifest = Manifest.from_json((path / "manifest.json").read_text(encoding="utf-8"))
        except (ManifestError, OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path / 'manifest.json'}: {error}") from None
        if (manifest.name, manifest.version) != (name, wanted):
            raise ManifestError(
                f"{path / 'manifest.json'} is the manifest of {manifest.name} version {manifest.version}; version "
                "directories cannot be renamed or copied by hand, use `flowmodel publish`"
            )
        return manifest

    def check_model(self, name: str) -> list[int]:
        """The versions of a model, ascending.

        Raises:
            ModelNotFoundError: there is no such model; the text lists those there are.
        """
        versions = self.versions(name)
        if not versions:
            present = ", ".join(self.names()) or "none"
            raise ModelNotFoundError(f"no model {name!r} in {self.place}; models there: {present}")
        return versions

    def check_version(self, name: str, version: int | None) -> int:
        """The version, or the newest for ``None``.

        Raises:
            ModelNotFoundError: there is no such model or version; the text lists what there is.
        """
        versions = self.check_model(name)
        wanted = versions[-1] if version is None else version
        if wanted not in versions:
            raise ModelNotFoundError(f"model {name!r} has no version {wanted}; its versions: {_listed(versions)}")
        return wanted

    def default_version(self, name: str) -> int:
        """The version that a service answers with where a request names none: the one chosen, or what comes nearest.

        Raises:
            ModelNotFoundError: there is no such model; the text lists those there are.
            ServingError: the choice cannot be read, or leaves no version.
        """
        versions = self.check_model(name)
        serving = self.serving(name)
        candidates = serving.candidates(versions)
        if candidates:
            return candidates[0]
        if serving.default is None:
            why = "all its versions are retired"
        else:
            why = f"version {serving.default}, its default, is " + (
                "retired" if serving.default in versions else "not in the store"
            )
        raise ServingError(
            f"no version of {name!r} answers by default: {why}; name one of {_listed(versions)}, or make one the "
            "default with `flowmodel models default`"
        )

    def serving(self, name: str) -> Serving:
        """Which versions of a model answer.

        Raises:
            ServingError: its file cannot be read; the text names it.
        """
        path = self.root / name / SERVING
        try:
            return Serving.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Serving()
        except (ServingError, OSError, UnicodeDecodeError) as error:
            raise ServingError(f"{path}: {error}; repair the file, or remove it to serve the newest version") from None

    def change_serving(self, name: str, change: Callable[[Serving], Serving]) -> Serving:
        """Change which versions of a model answer, in one step that no other change comes between.

        Args:
            name: a model of the store.
            change: gets the present choice and returns the new one.

        Raises:
            ServingError: the present file cannot be read.
            ArtefactError: the new one cannot be written.
        """
        folder = self.root / name
        try:
            with _locked(folder):
                for left in folder.glob(f".{SERVING}-*"):
                    # Nobody else writes here now, so whoever made it was killed.
                    left.unlink()
                serving = change(self.serving(name))
                _replace(folder / SERVING, serving.to_json() + "\n")
        except OSError as error:
            raise ArtefactError(f"cannot write {folder / SERVING}: {error.strerror or error}") from None
        return serving

    def next_version(self, name: str) -> int:
        """The number that the next version of a model will have.

        Raises:
            ArtefactError: the name is not one a model can have.
        """
        check_name(name)
        return (self.versions(name) or [0])[-1] + 1

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A new directory inside the store in which a version is put together; removed unless it was committed.

        It is never listed. What a killed publisher left of it is removed by a later one, an hour after it was last
        touched: a directory of a publisher that lives is locked, and a lock ends with its process.

        Raises:
            ArtefactError: the name is not one a model can have, or the store cannot be written.
        """
        check_name(name)
        try:
            self._sweep(name)
            folder = self._new_folder(name)
            lock = _lock(folder)
        except OSError as error:
            raise ArtefactError(f"cannot write to the store {self.root}: {error.strerror or error}") from None
        try:
            yield folder
        except OSError as error:
            place = error.filename or self.root
            raise ArtefactError(f"cannot write {place}: {error.strerror or error}; nothing was published") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            with contextlib.suppress(OSError):
                # A model that got no version leaves no empty directory behind.
                (self.root / name).rmdir()

    def _new_folder(self, name: str) -> Path:
        while True:
            (self.root / name).mkdir(parents=True, exist_ok=True)
            # Missing again by now means that another publisher gave up and took the empty directory with it.
            with contextlib.suppress(FileNotFoundError):
                return Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.root / name))

    def _sweep(self, name: str) -> None:
        """Remove what killed publishers left behind."""
        for folder in (self.root / name).glob(f"{_STAGING}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < _STALE_SECONDS:
                    continue
                lock = _lock(folder)
                try:
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)

    def commit(self, staged: Path, name: str, version: int) -> bool:
        """Make a staged directory the version of that number, in one rename, after everything in it reached the disk.

        Returns:
            Whether it was done: ``False`` if another publisher took the number first.
        """
        target = self.root / name / str(version)
        for path in [*staged.rglob("*"), staged]:
            _sync(path)
        # mkdtemp made it private; a service may run as another user.
        staged.chmod(0o755)
        try:
            staged.rename(target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise ArtefactError(f"cannot publish {target}: {error.strerror or error}") from None
        _sync(target.parent)
        return True


def is_url(place: str | Path) -> bool:
    """Whether a store's place is a URL, not a directory."""
    return "://" in str(place) or "::" in str(place)


def is_name(name: str) -> bool:
    """Whether a model may have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raise an :class:`~flowmodel.errors.ArtefactError` unless a model may have this name."""
    if not is_name(name):
        raise ArtefactError(
            f"model name {name!r} given; expected 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among those who lock the same folder; a process that dies lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """Lock a folder of one's own for as long as the descriptor that is returned is open.

    Raises:
        OSError: somebody else has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _replace(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new, whatever happens meanwhile."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(versions: list[int]) -> str:
    return ", ".join(map(str, versions[-20:])) + (" (the newest 20)" if len(versions) > 20 else "")
