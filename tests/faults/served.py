"""``flowmodel serve`` as a process of its own, and the processes that it starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = [sys.executable, "-c", "from service.command import serve; serve()"]


class Served:
    """A service that has said it is ready.

    Args:
        store: the models.
        engine: ``inprocess`` or ``torchserve``.
        settings: others, by name.

    Attributes:
        grpc: its gRPC address.
        http: its HTTP address.
        ready: the line that it has said so with.
    """

    def __init__(self, store: Path, engine: str, **settings: object) -> None:
        chosen = {
            "engine": engine,
            "store": store,
            "grpc_port": 0,
            "http_port": 0,
            "store_poll_seconds": 0.1,
            **settings,
        }
        options = [text for name, value in chosen.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMODEL_")}
        self.process = subprocess.Popen(
            [*PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        ready = self.process.stdout.readline()
        addresses = re.search(r"gRPC (\S+), HTTP (\S+),", ready)
        assert addresses, f"{ready!r} {self.errors}"
        self.ready, (self.grpc, self.http) = ready, addresses.groups()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = httpx.get(f"{self.http}/metrics", trust_env=False, timeout=30).text
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def kill(self, name: str) -> set[psutil.Process]:
        """Kill the JVM, or the workers, as the kernel would for want of memory; who they were."""
        victims = self.children(name)
        for victim in victims:
            victim.kill()
        return victims

    def children(self, name: str) -> set[psutil.Process]:
        """The processes below the service of this kind: ``jvm`` or ``worker``."""
        found = set()
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(child.cmdline())
            except psutil.NoSuchProcess:
                continue
            kind = "worker" if "model_service_worker" in line else "jvm" if "org.pytorch.serve" in line else ""
            if kind == name:
                found.add(child)
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """Signal it to end, and see that whoever watches its health is told so while it still answers."""
        with grpc.insecure_channel(self.grpc) as channel:
            request = health_pb2.HealthCheckRequest(service="density.v1.DensityService")
            watched = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=60)
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            self.process.send_signal(signal.SIGTERM)
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
            yield

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.end()
            except subprocess.TimeoutExpired:
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()

    def _read_errors(self) -> None:
        with self.process.stderr as stream:
            for line in stream:
                self.errors.append(line.rstrip("\n"))


def wait_until(condition, what: str, seconds: float = 60) -> None:
    """Return when something in another process has come true, which nothing signals."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)
