"""The keys that TorchServe asks its callers for."""

from __future__ import annotations

import json
from pathlib import Path

from service.engines.engine import EngineError
from service.security.stamp import file_stamp

Metadata = tuple[tuple[str, str], ...]


class KeyFile:
    """The ``key_file.json`` that a TorchServe with token authorization writes, read again when it changes.

    TorchServe 0.12 asks for its keys in every call, over gRPC as metadata: one key for predictions, another one for
    management.

    Args:
        path: the file; None for a TorchServe that asks for no keys.

    Example:
        >>> KeyFile(None).inference()
        ()
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._keys: dict[str, Metadata] = {}

    def inference(self) -> Metadata:
        """What goes with a prediction.

        Raises:
            EngineError: the file cannot be read or holds no keys.
        """
        return self._key("inference")

    def management(self) -> Metadata:
        """What goes with a management call.

        Raises:
            EngineError: the file cannot be read or holds no keys.
        """
        return self._key("management")

    def _key(self, kind: str) -> Metadata:
        if self._path is None:
            return ()
        stamp = file_stamp(self._path)
        if stamp != self._stamp or stamp is None:
            self._keys = {name: _metadata(key) for name, key in _read(self._path).items()}
            self._stamp = stamp
        return self._keys[kind]


def _metadata(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
        return {kind: str(content[kind]["key"]) for kind in ("inference", "management")}
    except OSError as error:
        raise EngineError(f"cannot read TorchServe's keys in {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        # Never what the file holds.
        raise EngineError(
            f"{path} is not the key_file.json of a TorchServe: an inference and a management key expected"
        ) from None
