"""Closed-loop load from h2load, a client in C that costs little beside the servers."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 8
"""Of HTTP/2, each with an equal share of the requests in flight; of HTTP/1.1 there is one for each request."""

_GRACE_SECONDS = 30.0
"""How much longer than it was told to a run may take: answers under way are waited for."""


class LoadError(RuntimeError):
    """The load could not be made, or was answered wrongly."""


class NoAnswerError(LoadError):
    """Not one answer came while it was looked."""


@dataclass(frozen=True)
class Load:
    """What came of one run.

    Attributes:
        rate: requests answered in a second.
        requests: answered in all.
        p50: of their latencies, in milliseconds.
        p99: likewise.
    """

    rate: float
    requests: int
    p50: float
    p99: float


def find_h2load() -> str:
    """The program.

    Raises:
        LoadError: it is not installed; the text says how to get it.
    """
    found = shutil.which("h2load")
    if found is None:
        raise LoadError(
            "h2load is not installed; it comes with nghttp2: apt-get install nghttp2-client on Debian and Ubuntu, "
            "dnf install nghttp2 on Fedora, brew install nghttp2 on macOS"
        )
    return found


def run(
    url: str, body: bytes, headers: Mapping[str, str], *, http2: bool, inflight: int, seconds: float, answer_bytes: int
) -> Load:
    """Keep so many requests in flight for a while.

    Every answer is to be as long as the one that was checked: an error of gRPC has status 200 and no body, and would
    pass for an answer otherwise. How many bytes arrived tells them apart.

    Args:
        url: posted to.
        body: of every request.
        headers: of every request.
        http2: or HTTP/1.1.
        inflight: requests under way at any time.
        seconds: how long.
        answer_bytes: of the body of every answer.

    Raises:
        NoAnswerError: none came.
        LoadError: an answer was not right.
    """
    with tempfile.TemporaryDirectory() as folder:
        posted, log = Path(folder, "body"), Path(folder, "log")
        posted.write_bytes(body)
        clients = min(CONNECTIONS, inflight) if http2 else inflight
        command = [find_h2load(), "-t", "1", "-c", str(clients), "-m", str(inflight // clients), "-d", str(posted)]
        command += [text for name, value in headers.items() for text in ("-H", f"{name}: {value}")]
        command += ["-D", f"{round(1000 * seconds)}ms", "--log-file", str(log), url]
        if not http2:
            command.insert(1, "--h1")
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + _GRACE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise LoadError(f"h2load did not end within {seconds + _GRACE_SECONDS:g} s") from None
        if done.returncode:
            raise LoadError(f"h2load ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return parsed(done.stdout, log.read_text(), inflight, answer_bytes)


def parsed(report: str, log: str, inflight: int, answer_bytes: int) -> Load:
    """h2load's report, checked.

    Args:
        report: what it printed.
        log: its log: of each answer when it began, its status, and the microseconds that it took.
        inflight: requests under way; as many answers may have arrived in part when the time was over.
        answer_bytes: of the body of every answer.

    Raises:
        NoAnswerError: none came.
        LoadError: an answer was not right.
    """
    rate = _number(r"finished in .*?, ([\d.]+) req/s", report)
    done, failed, errored, timeouts = (
        int(_number(rf"(\d+) {word}", report)) for word in ("done", "failed", "errored", "timeout")
    )
    good = int(_number(r"(\d+) 2xx", report))
    data = int(_number(r"\((\d+)\) data", report))
    if not done:
        raise NoAnswerError("no request was answered in the time")
    if failed or errored or timeouts or good < done:
        raise LoadError(f"{done} requests: {good} with a good status, {failed} failed, {errored} errored")
    # What is answered with fewer bytes is an error of gRPC.
    short = done * answer_bytes - data
    if short > inflight * answer_bytes or -short > inflight * answer_bytes:
        raise LoadError(f"{done} answers of {answer_bytes} bytes expected; {data} bytes came, {short} too few")
    microseconds = sorted(int(line.split("\t")[2]) for line in log.splitlines())
    return Load(
        rate=rate,
        requests=done,
        p50=statistics.median(microseconds) / 1000,
        p99=microseconds[min(len(microseconds) - 1, int(0.99 * len(microseconds)))] / 1000,
    )


def _number(pattern: str, report: str) -> float:
    found = re.search(pattern, report)
    if found is None:
        raise LoadError(f"h2load's report is not understood, no {pattern!r} in it:\n{report[-1000:]}")
    return float(found.group(1))
