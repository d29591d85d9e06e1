"""A model store behind any URL that fsspec opens; its versions are fetched into a local cache, and checked there.

An object store has neither renames nor locks, so a version appears with its manifest, which is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.serving import SERVING, Serving
from flowmodel.artefact.store import ModelStore, PublishedModel, check_name, is_name, is_url, sha256_of
from flowmodel.errors import ArtefactError, ManifestError, ServingError, StoreUnreachableError

CACHE_VARIABLE = "FLOWMODEL_STORE_CACHE"
_MANIFEST = "manifest.json"
_CLAIM = ".claim"
"""Made before anything else of a version, where the file system can refuse to make it twice."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class RemoteStore(ModelStore):
    """A store that fsspec reaches, as ``s3://bucket/models`` or ``https://host/models``.

    Versions are read from a local cache, which is filled as they are opened and may be removed whenever nobody uses it.

    Args:
        url: where the store is.
        cache: where its versions are kept; by default ``FLOWMODEL_STORE_CACHE``, or else a folder of the user's cache.

    Raises:
        ArtefactError: fsspec, or the package for this kind of URL, is not installed, or there is no such kind.

    Example:
        >>> RemoteStore("memory://an/empty/store").names()
        []
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        place = re.sub(r"//[^/@]*@", "//***@", url)
        self._fs, self._folder = _opened(url, place)
        top = cache or Path(os.environ.get(CACHE_VARIABLE) or _user_cache())
        self._cache = top / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._whole: set[tuple[str, int]] = set()
        self._changing = threading.Lock()
        super().__init__(self._cache)
        self.place = place

    def exists(self) -> bool:
        """Whether there is anything in the store; one that is gone looks like an empty one."""
        return bool(self._entries(self._folder))

    def names(self) -> list[str]:
        """Names of the models with at least one version, sorted."""
        return sorted(name for name in self._entries(self._folder) if is_name(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending; empty if there is no such model."""
        return sorted(version for version in self._numbers(name) if self._is_whole(name, version))

    def next_version(self, name: str) -> int:
        """The number that the next version of a model will have, above those that a publisher only began.

        Raises:
            ArtefactError: the name is not one a model can have.
        """
        check_name(name)
        return max(self._numbers(name), default=0) + 1

    def serving(self, name: str) -> Serving:
        """Which versions of a model answer.

        Raises:
            ServingError: its file cannot be read; the text names it.
        """
        try:
            with self._reaching(f"read {name}/{SERVING}"):
                text = self._fs.cat_file(self._path(name, SERVING)).decode("utf-8")
        except FileNotFoundError:
            return Serving()
        except UnicodeDecodeError as error:
            raise ServingError(f"{self.place}/{name}/{SERVING}: {error}; repair the file, or remove it") from None
        try:
            return Serving.from_json(text)
        except ServingError as error:
            raise ServingError(
                f"{self.place}/{name}/{SERVING}: {error}; repair the file, or remove it to serve the newest version"
            ) from None

    def change_serving(self, name: str, change: Callable[[Serving], Serving]) -> Serving:
        """Change which versions of a model answer; of two machines that do so at once, the later one's change stays.

        Raises:
            ServingError: the present file cannot be read.
            ArtefactError: the new one cannot be written.
        """
        with self._changing:
            serving = change(self.serving(name))
            with self._reaching(f"write {name}/{SERVING}"):
                self._fs.pipe_file(self._path(name, SERVING), serving.to_json().encode() + b"\n")
        return serving

    def manifest(self, name: str, version: int | None = None) -> Manifest:
        """What a version says of itself.

        Raises:
            ModelNotFoundError: there is no such model or version; the text lists what there is.
            ManifestError: its manifest cannot be read, or is of another version than its directory says.
        """
        return self._manifest(name, self.check_version(name, version))[0]

    def open(self, name: str, version: int | None = None) -> PublishedModel:
        """A published version, the newest if none is named, fetched into the cache unless it is there.

        Raises:
            ModelNotFoundError: there is no such model or version; the text lists what there is.
            ManifestError: its manifest cannot be read, or is of another version than its directory says.
            ArtefactError: a file is missing, or is not the one that was published.
        """
        wanted = self.check_version(name, version)
        manifest, text = self._manifest(name, wanted)
        # By the manifest's hash, so that a store made anew under the same URL is not taken for the old one.
        target = self._cache / name / str(wanted) / hashlib.sha256(text).hexdigest()[:16]
        if not target.is_dir():
            self._fetch(manifest, text, target)
        return PublishedModel(target, manifest)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A new local directory in which a version is put together; removed in the end.

        Raises:
            ArtefactError: the name is not one a model can have, or the cache cannot be written.
        """
        check_name(name)
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".staging-", dir=self._cache) as folder:
                yield Path(folder)
        except OSError as error:
            if isinstance(error, ArtefactError):
                raise
            text = f"cannot write {error.filename or self._cache}: {error.strerror or error}; nothing was published"
            raise ArtefactError(text) from None

    def commit(self, staged: Path, name: str, version: int) -> bool:
        """Upload a staged directory as the version of that number, its manifest last.

        Returns:
            Whether it was done: ``False`` if another publisher took the number first.

        Raises:
            ArtefactError: the store cannot be written; what had been uploaded is removed again.
        """
        if version in self._numbers(name) or not self._claim(name, version):
            return False
        manifest = staged / _MANIFEST
        paths = [path for path in sorted(staged.rglob("*")) if path.is_file() and path != manifest]
        try:
            with self._reaching(f"publish {name}/{version}"):
                for path in paths:
                    remote = self._path(name, str(version), path.relative_to(staged).as_posix())
                    self._fs.put_file(str(path), remote)
                    if self._fs.size(remote) != path.stat().st_size:
                        raise OSError(f"{path.name} did not arrive whole")
                self._fs.pipe_file(self._path(name, str(version), _MANIFEST), manifest.read_bytes())
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm(self._path(name, str(version)), recursive=True)
            raise
        return True

    def _claim(self, name: str, version: int) -> bool:
        """Take a number for oneself, as far as the file system can tell who came first."""
        path = self._path(name, str(version), _CLAIM)
        with self._reaching(f"publish {name}/{version}"):
            try:
                # Where there are no folders this does nothing.
                self._fs.makedirs(self._path(name, str(version)), exist_ok=True)
                self._fs.pipe_file(path, b"", mode="create")
            except FileExistsError:
                return False
            except (TypeError, ValueError):
                self._fs.pipe_file(path, b"")
        return True

    def _fetch(self, manifest: Manifest, text: bytes, target: Path) -> None:
        """Bring a version's files here, and see that they are those that were published."""
        version = self._path(manifest.name, str(manifest.version))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as place:
            staged = Path(place) / "version"
            for name, published in manifest.files.items():
                local, shown = staged / name, f"{self.place}/{manifest.name}/{manifest.version}/{name}"
                local.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with self._reaching(f"read {shown}"):
                        self._fs.get_file(f"{version}/{name}", str(local))
                except FileNotFoundError:
                    lost = f"{shown} is missing, and the manifest lists it; publish the model again"
                    raise ArtefactError(lost) from None
                if local.stat().st_size != published["bytes"] or sha256_of(local) != published["sha256"]:
                    raise ArtefactError(
                        f"{shown} is not the file that was published (SHA-256 differs); publish the model again"
                    )
            (staged / _MANIFEST).write_bytes(text)
            try:
                staged.rename(target)
            except OSError:
                # Another process fetched the same files meanwhile.
                if not target.is_dir():
                    raise

    def _manifest(self, name: str, version: int) -> tuple[Manifest, bytes]:
        shown = f"{self.place}/{name}/{version}/{_MANIFEST}"
        try:
            with self._reaching(f"read {shown}"):
                text: bytes = self._fs.cat_file(self._path(name, str(version), _MANIFEST))
            manifest = Manifest.from_json(text.decode("utf-8"))
        except (ManifestError, FileNotFoundError, UnicodeDecodeError) as error:
            raise ManifestError(f"{shown}: {error}") from None
        return _named(manifest, name, version, shown), text

    def _numbers(self, name: str) -> list[int]:
        """Numbers of a model's versions, those that are still on their way included."""
        if not is_name(name):
            return []
        return [int(entry) for entry in self._entries(self._path(name)) if _VERSION.fullmatch(entry)]

    def _is_whole(self, name: str, version: int) -> bool:
        """Whether the manifest of a version is there; asked for no more once it is, for versions never change."""
        if (name, version) not in self._whole:
            with self._reaching(f"look at {name}/{version}"):
                if not self._fs.exists(self._path(name, str(version), _MANIFEST)):
                    return False
            self._whole.add((name, version))
        return True

    def _entries(self, folder: str) -> list[str]:
        """Names in a folder; none if there is no such folder."""
        try:
            with self._reaching("be read"):
                self._fs.invalidate_cache()
                found = self._fs.ls(folder, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [PurePosixPath(str(path).split("?")[0].rstrip("/")).name for path in found]

    def _path(self, *parts: str) -> str:
        folder = self._folder.rstrip("/")
        return "/".join([*([folder] if folder else []), *parts])

    @contextlib.contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        """Whatever a file system raises, but that something is missing, as one error that names the store."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, ArtefactError):
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise StoreUnreachableError(f"the store {self.place} cannot {what}: {reason}") from error


def open_store(place: str | Path | ModelStore, cache: Path | None = None) -> ModelStore:
    """The store at a path or URL.

    Args:
        place: a directory, ``file://`` or any other URL that fsspec opens; a store is returned as it is.
        cache: where versions of a store that is not a directory are kept.

    Raises:
        ArtefactError: there is no such kind of URL, or a package for it is not installed.

    Example:
        >>> type(open_store("model_store")).__name__, type(open_store("memory://models")).__name__
        ('ModelStore', 'RemoteStore')
    """
    if isinstance(place, ModelStore):
        return place
    if not is_url(place):
        return ModelStore(place)
    url = str(place)
    return ModelStore(url.removeprefix("file://")) if url.startswith("file://") else RemoteStore(url, cache)


def _opened(url: str, shown: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise ArtefactError(
            f"the store {shown} needs the package fsspec; run: pip install 'flowmodel[remote]', or name a directory"
        ) from None
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError, OSError) as error:
        raise ArtefactError(
            f"the store {shown} cannot be opened: {error}; a directory expected, or a URL that fsspec and its packages "
            "open, such as s3://bucket/models"
        ) from None


def _named(manifest: Manifest, name: str, version: int, shown: str) -> Manifest:
    if (manifest.name, manifest.version) != (name, version):
        raise ManifestError(
            f"{shown} is the manifest of {manifest.name} version {manifest.version}; version directories cannot be "
            "renamed or copied by hand, use `flowmodel publish`"
        )
    return manifest


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowmodel"
