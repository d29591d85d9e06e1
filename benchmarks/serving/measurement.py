"""One server, started once, and all that is measured of it before it is ended."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from kernel import machine

from flowmodel.runtime.scoring import Scorer
from serving import load
from serving.model import Model, Question
from serving.process import ServerProcess, free_port
from serving.subjects import ARCHIVE, Server
from serving.wire import Protocol

ALONE = 1
"""Requests in flight at which the gateway's latency is set against its engine's."""

_ASK_SECONDS = 60.0
_SETTLE_SECONDS = 10.0
_PATIENCE = 4
"""How many times longer a server is loaded of which no answer came at first."""


@dataclass(frozen=True)
class Effort:
    """How long to look.

    Attributes:
        seconds: of load for each figure.
        warm: seconds of load before it that are not counted.
        long: how many times longer for rows that take long.
    """

    seconds: float = 1.5
    warm: float = 0.5
    long: float = 2.0


LONG_ROWS = 1024
"""Requests with so many rows are looked at longer: of some servers few are answered in a second."""


def measure(server: Server, model: Model, rows: list[int], inflight: list[int], effort: Effort) -> dict[str, Any]:
    """Start a server, check an answer of every kind, load it, and end it.

    Returns:
        JSON-able: ``cells``, one for each way to ask, number of rows and of requests in flight; ``start_seconds`` and
        ``megabytes``.

    Raises:
        ServerError: it did not come up.
        ValueError: an answer was wrong.
    """
    grpc_port, http_port = free_port(), free_port()
    command = [server.python(), *server.command(model, grpc_port, http_port)]
    begin = time.time()
    with ServerProcess(command) as process:
        cells = []
        up = 0.0
        for subject, protocol in server.subjects.items():
            address = f"127.0.0.1:{grpc_port if protocol.grpc else http_port}"
            one = model.question(1)
            process.wait_until(partial(protocol.verify, address, one, _ASK_SECONDS), server.start_seconds)
            up = up or time.time() - begin
            for count, together in _cells(subject, rows, inflight):
                question = model.question(count)
                length = protocol.verify(address, question, _ASK_SECONDS)
                cell = {"subject": subject, "rows": count, "inflight": together}
                try:
                    cell |= _load(process, protocol, address, question, together, length, effort)
                except load.LoadError as error:
                    cell |= {"rate": 0.0, "failed": str(error)[-500:]}
                cells.append(cell)
        return {"cells": cells, "start_seconds": round(up, 1), "megabytes": round(process.megabytes())}


def scorer_alone(model: Model, seconds: float) -> dict[str, Any]:
    """Median milliseconds of one row in the engine of ``inprocess``, called in this process."""
    scorer, rows = Scorer.load(model.scorer), model.question(1).rows
    times = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        scorer.log_prob(rows)
        times.append(time.perf_counter() - begin)
    return {"p50": 1000 * statistics.median(times), "requests": len(times)}


def _cells(subject: str, rows: list[int], inflight: list[int]) -> list[tuple[int, int]]:
    """Rows and requests in flight, the latency's one first."""
    alone = [(1, ALONE)]
    return alone if subject == ARCHIVE else alone + [(count, together) for count in rows for together in inflight]


def _load(
    process: ServerProcess,
    protocol: Protocol,
    address: str,
    question: Question,
    inflight: int,
    length: int,
    effort: Effort,
) -> dict[str, Any]:
    times = effort.long if len(question.rows) >= LONG_ROWS else 1.0
    run = partial(
        load.run,
        f"http://{address}/{protocol.path}",
        protocol.body(question.rows),
        protocol.post_headers(),
        http2=protocol.grpc,
        inflight=inflight,
        answer_bytes=length,
    )
    with contextlib.suppress(load.NoAnswerError):
        run(seconds=effort.warm * times)
    process.settle(_SETTLE_SECONDS)
    for patience in (1, _PATIENCE):
        before = _usage(process)
        try:
            found = run(seconds=effort.seconds * times * patience)
        except load.NoAnswerError:
            if patience == _PATIENCE:
                raise
            process.settle(_SETTLE_SECONDS)
            continue
        after = _usage(process)
        break
    process.settle(_SETTLE_SECONDS)
    return {
        **{name: round(value, 4) for name, value in asdict(found).items()},
        "cpu_us": round(1e6 * (after[0] - before[0]) / found.requests, 1),
        "others": machine.share_of_others(before[1], after[1]),
    }


def _usage(process: ServerProcess) -> tuple[float, machine.Usage | None]:
    """Seconds that the server computed, and the machine's, of which the server's and h2load's count as our own."""
    used, times, server = machine.usage(), os.times(), process.cpu_seconds()
    children = times.children_user + times.children_system
    return server, used and used._replace(own=used.own + children + server)
