"""A server as a process of its own: started, waited for, measured, ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0
_IDLE_SHARE = 0.3
"""Of a core: what servers use that only wait stays below."""


class ServerError(RuntimeError):
    """A server did not come up; the text has its last words."""


class ServerProcess:
    """One server.

    Args:
        command: starts it in the foreground.
        environment: variables on top of this process's own.

    Example:
        >>> with ServerProcess(["sleep", "60"]) as server:
        ...     server.alive
        True
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._environment = {
            name: value
            for name, value in {**os.environ, **(environment or {})}.items()
            if not name.startswith("FLOWMODEL_")
        }
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        self._output = Path(self._folder.name, "output")
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder.name,
                env=self._environment,
                start_new_session=True,
            )
        self._began = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tree()
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        # What it started and did not end itself, also in sessions of their own.
        _, left = psutil.wait_procs(self._seen.values(), timeout=3)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_PATIENCE_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        self._folder.cleanup()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of what it printed."""
        return self._output.read_text(errors="replace")[-2000:]

    def wait_until(self, answers: Callable[[], object], seconds: float) -> None:
        """Call ``answers`` until it raises nothing.

        Raises:
            ServerError: it still did when the time was over, or the process ended.
        """
        while True:
            try:
                answers()
            except Exception as error:
                if not self.alive or time.time() > self._began + seconds:
                    state = "did not answer" if self.alive else f"ended with code {self._process.returncode}"
                    raise ServerError(
                        f"{self._command[0]} {state} after {time.time() - self._began:.0f} s: {error}\n"
                        f"{self.last_words}"
                    ) from error
                time.sleep(_POLL_SECONDS)
            else:
                return

    def cpu_seconds(self) -> float:
        """What the process and all below it have computed so far."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def settle(self, seconds: float) -> None:
        """Wait until it is idle, at most so long: requests whose client has gone are computed all the same by some."""
        end = time.time() + seconds
        before = self.cpu_seconds()
        while time.time() < end:
            time.sleep(_POLL_SECONDS)
            now = self.cpu_seconds()
            if now - before < _IDLE_SHARE * _POLL_SECONDS:
                return
            before = now

    def megabytes(self) -> float:
        """Resident memory of the process and all below it; what they share is counted for each."""
        total = 0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            for process in (root, *root.children(recursive=True)):
                self._seen.setdefault(process.pid, process)
        return list(self._seen.values())


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
