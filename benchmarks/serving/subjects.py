"""The servers that are measured, and how each is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving import wire
from serving.model import Model

HERE = Path(__file__).parent / "servers"

PEER_BATCH = 32
"""Most requests that a peer's batching puts into one call."""

MOST_ROWS = 4 * 1024 * 1024
"""That may wait in the gateway: of 256 requests of 4096 rows, which none of the peers would refuse, all."""

OURS, OURS_TORCHSERVE = "inprocess", "torchserve engine"
OURS_PROCESSES, TORCHSERVE_PROCESSES = "inprocess, a process a core", "torchserve engine, a process a core"
TORCHSERVE, TORCHSERVE_WORKERS, ECHO = "TorchServe", "TorchServe, a worker a core", "grpc.aio echo"
FASTAPI, MLSERVER, LITSERVE, RAY, BENTOML = "FastAPI", "MLServer", "LitServe", "Ray Serve", "BentoML"
RAW, ARROW = "inprocess, HTTP float32", "inprocess, HTTP Arrow"
RAW_PROCESSES = "inprocess, HTTP float32, a process a core"
ARCHIVE = "TorchServe, our archive"
"""Asked with one request at a time alone, to tell what the gateway adds to its engine."""


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        command: how to start it, given the model, a port for gRPC and one for HTTP.
        subjects: ways to ask it.
        what: it is, for the page.
        environment: which virtual environment it runs in.
        start_seconds: how long it may take to answer.
    """

    command: Callable[[Model, int, int], list[str]]
    subjects: Mapping[str, wire.Protocol]
    what: str
    environment: str = "main"
    start_seconds: float = 60.0

    def python(self) -> str:
        """The interpreter of its environment: this one, or the one that ``BENCH_PYTHON_...`` names."""
        return os.environ.get(f"BENCH_PYTHON_{self.environment.upper()}", sys.executable)


def _gateway(engine: str, processes: int = 1) -> Callable[[Model, int, int], list[str]]:
    def command(model: Model, grpc_port: int, http_port: int) -> list[str]:
        options = {
            "engine": engine,
            "store": model.store,
            "grpc-port": grpc_port,
            "http-port": http_port,
            "processes": processes,
            "max-queue-rows": MOST_ROWS,
            "log-level": "warning",
        }
        program = "from service.command import serve; serve()"
        return ["-c", program, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]

    return command


def _script(name: str, *, over_http: bool) -> Callable[[Model, int, int], list[str]]:
    def command(model: Model, grpc_port: int, http_port: int) -> list[str]:
        return [str(HERE / name), str(http_port if over_http else grpc_port), str(model.scorer), str(PEER_BATCH)]

    return command


def _torchserve(workers: int) -> Callable[[Model, int, int], list[str]]:
    def command(model: Model, grpc_port: int, http_port: int) -> list[str]:
        files = [str(model.scorer), str(model.archive)]
        return [str(HERE / "torchserve.py"), str(grpc_port), *files, str(PEER_BATCH), str(workers)]

    return command


SERVERS = {
    ECHO: Server(
        lambda model, grpc_port, http_port: [str(HERE / "echo.py"), str(grpc_port)],
        {ECHO: wire.ECHO},
        "answers the request's own bytes, on uvloop; the floor",
    ),
    OURS: Server(
        _gateway("inprocess"),
        {OURS: wire.DENSITY, RAW: wire.DENSITY_RAW, ARROW: wire.DENSITY_ARROW},
        "`flowmodel serve --engine inprocess`: gRPC, and HTTP with raw float32 and with Arrow",
    ),
    OURS_PROCESSES: Server(
        _gateway("inprocess", os.cpu_count() or 1),
        {OURS_PROCESSES: wire.DENSITY, RAW_PROCESSES: wire.DENSITY_RAW},
        "the same with `--processes`, as many as there are cores",
    ),
    TORCHSERVE: Server(
        _torchserve(1),
        {TORCHSERVE: wire.TORCHSERVE, ARCHIVE: wire.TORCHSERVE_ARCHIVE},
        "0.12 called directly over gRPC: a small handler around the TorchScript, one worker, "
        f"`batchSize` {PEER_BATCH}, `maxBatchDelay` 1 ms",
        start_seconds=120.0,
    ),
    OURS_TORCHSERVE: Server(
        _gateway("torchserve"), {OURS_TORCHSERVE: wire.DENSITY}, "`flowmodel serve`, gRPC", start_seconds=120.0
    ),
    TORCHSERVE_PROCESSES: Server(
        _gateway("torchserve", os.cpu_count() or 1),
        {TORCHSERVE_PROCESSES: wire.DENSITY},
        "the same with `--processes`, as many as there are cores, and one TorchServe",
        start_seconds=120.0,
    ),
    TORCHSERVE_WORKERS: Server(
        _torchserve(os.cpu_count() or 1),
        {TORCHSERVE_WORKERS: wire.TORCHSERVE},
        "the same with as many workers as there are cores, as it has unless configured",
        start_seconds=120.0,
    ),
    FASTAPI: Server(
        _script("fastapi_server.py", over_http=True),
        {FASTAPI: wire.RAW},
        "uvicorn with uvloop and httptools, raw float32, the TorchScript called in the handler",
    ),
    MLSERVER: Server(
        _script("mlserver_runtime.py", over_http=False),
        {MLSERVER: wire.INFERENCE},
        f"Open Inference over gRPC with raw tensors, a runtime of its own in the server's process, `max_batch_size` "
        f"{PEER_BATCH}, `max_batch_time` 1 ms",
        environment="mlserver",
    ),
    LITSERVE: Server(
        _script("litserve_server.py", over_http=True),
        {LITSERVE: wire.JSON},
        f"JSON, as it reads no raw bytes; one worker, `max_batch_size` {PEER_BATCH}, `batch_timeout` 1 ms",
    ),
    RAY: Server(
        _script("ray_server.py", over_http=True),
        {RAY: wire.RAW},
        f"raw float32 over its HTTP proxy, one replica, `@serve.batch` with {PEER_BATCH} requests and 1 ms",
        start_seconds=120.0,
    ),
    BENTOML: Server(
        _script("bentoml_service.py", over_http=True),
        {BENTOML: wire.JSON},
        f"JSON, as its arrays over HTTP are; one worker, batchable, at most {PEER_BATCH * 4096} rows at once",
        start_seconds=120.0,
    ),
}
"""By name, in the order in which they are measured: what is compared stands side by side."""
