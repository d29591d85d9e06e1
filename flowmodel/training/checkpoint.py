"""A training on disk, to go on with after the process was killed: one file, safetensors with JSON in its header."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from flowmodel.errors import TrainingError

_FORMAT = 2
_SHARE_OF_TIME = 0.05
_DIGEST_LENGTH = 32


class Saved(NamedTuple):
    """What a checkpoint holds.

    Args:
        tensors: Weights, averages, moments of the optimiser, states of generators.
        state: The rest, as JSON values.
        identity: Data, settings and plan of the training.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    identity: dict[str, Any]


class Checkpoint:
    """The file of one training, replaced in one rename after it reached the disk.

    Args:
        path: The file; its directory is made when it is written.
        identity: Data, settings and plan, as JSON values; only a training with the same goes on from the file.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._identity = dict(identity)
        self._written, self._cost = -float("inf"), 0.0

    def due(self) -> bool:
        """Whether writing now keeps the time spent on it small; always so at first."""
        return time.monotonic() - self._written >= self._cost * (1 / _SHARE_OF_TIME - 1)

    def write(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the file.

        Raises:
            TrainingError: It cannot be written.
        """
        started = time.monotonic()
        text = json.dumps({"format": _FORMAT, "identity": self._identity, "state": state})
        content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {"json": text})
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise TrainingError(
                f"the checkpoint {self.path} cannot be written ({error.strerror or error}); make room or choose "
                "another place"
            ) from error
        self._written = time.monotonic()
        self._cost = self._written - started

    def content(self) -> bytes | None:
        """The file's content, or ``None`` where there is no file.

        Raises:
            TrainingError: It cannot be read.
        """
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TrainingError(f"the checkpoint {self.path} cannot be read ({error.strerror or error})") from error

    def saved(self, content: bytes) -> Saved:
        """What the content of a file says.

        Raises:
            TrainingError: It is damaged, of another format, or of a training with other data, settings or plan.
        """
        digest, body = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
        if hashlib.sha256(body).digest() != digest:
            raise TrainingError(
                f"the checkpoint {self.path} is damaged (SHA-256 differs); delete it and train from the start"
            )
        try:
            tensors = load(body)
            header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
            described = json.loads(header["__metadata__"]["json"])
        except (SafetensorError, ValueError, KeyError) as error:
            raise TrainingError(f"{self.path} is no checkpoint of a training ({error}); choose another file") from error
        if described["format"] != _FORMAT:
            raise TrainingError(
                f"the checkpoint {self.path} is of format {described['format']}, and this version reads {_FORMAT}; go "
                "on with the version that wrote it, or delete it"
            )
        self._check_identity(described["identity"])
        return Saved(tensors, described["state"], described["identity"])

    def _check_identity(self, saved: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(self._identity))
        different = []
        for name in sorted(set(saved) | set(ours)):
            before, now = saved.get(name), ours.get(name)
            if before != now:
                short = max(len(str(before)), len(str(now))) <= 40
                different.append(f"{name} (then {before}, now {now})" if short else name)
        if different:
            raise TrainingError(
                f"the checkpoint {self.path} is of another training: {', '.join(different)} differ; give what it was "
                "started with, or train from the start without resuming"
            )
