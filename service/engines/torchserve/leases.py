"""Which gateways use which versions of one TorchServe, so that each is registered once and unregistered by the last."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

from service.engines.engine import EngineUnavailable, ModelKey

_POLL_SECONDS = 0.02


class Leases:
    """The versions that one gateway uses in a TorchServe, beside other gateways that use it too.

    A lease is a lock on a file, shared by all who hold it. The system lets go of a process's locks when it ends, in
    whatever way, so nothing is kept for a gateway that was killed.

    Args:
        folder: the same for all gateways, and new with each TorchServe; None when there is only one gateway.

    Example:
        >>> Leases(None).give_back(ModelKey("wine", 3))
        [ModelKey(name='wine', version=3)]
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[ModelKey, IO[bytes]] = {}

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Be the only gateway that registers and unregisters.

        Raises:
            EngineUnavailable: TorchServe ended, and its folder with it.
        """
        if self._folder is None:
            yield
            return
        # No model's name begins with a dot.
        with self._opened(self._folder / ".changing") as file:
            # Nothing tells when another process lets go of a lock, but waiting on a thread.
            while not _locked(file, fcntl.LOCK_EX):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
            yield

    def take(self, key: ModelKey) -> None:
        """Use a version from now on; the caller is the only one ``changing``."""
        if self._folder is None or key in self._held:
            return
        file = self._opened(self._folder / key.name / str(key.version))
        fcntl.flock(file, fcntl.LOCK_SH)
        self._held[key] = file

    def give_back(self, key: ModelKey) -> list[ModelKey]:
        """Use a version no more; the caller is the only one ``changing``.

        Returns:
            Versions that no gateway uses now, this one or others whose gateways were killed, to be unregistered.
        """
        if self._folder is None:
            return [key]
        file = self._held.pop(key, None)
        if file is not None:
            file.close()
        return [other for other in self._registered() if self._unused(other)]

    def forget(self, key: ModelKey) -> None:
        """A version was unregistered; the caller is the only one ``changing``."""
        if self._folder is not None:
            (self._folder / key.name / str(key.version)).unlink(missing_ok=True)

    def siblings(self, key: ModelKey) -> list[ModelKey]:
        """Other versions of a model that some gateway uses."""
        return [other for other in self._registered() if other.name == key.name and other != key]

    def close(self) -> None:
        """Use nothing more."""
        for file in self._held.values():
            file.close()
        self._held.clear()

    def _opened(self, path: Path) -> IO[bytes]:
        try:
            path.parent.mkdir(exist_ok=True)
            return path.open("ab")
        except OSError as error:
            raise EngineUnavailable(f"TorchServe's folder is gone: {error}") from error

    def _registered(self) -> Iterator[ModelKey]:
        for path in self._folder.glob("*/*") if self._folder is not None else ():
            yield ModelKey(path.parent.name, int(path.name))

    def _unused(self, key: ModelKey) -> bool:
        if self._folder is None:
            return True
        with self._opened(self._folder / key.name / str(key.version)) as file:
            return _locked(file, fcntl.LOCK_EX)


def _locked(file: IO[bytes], kind: int) -> bool:
    """Whether the lock was free, and is held now until the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
