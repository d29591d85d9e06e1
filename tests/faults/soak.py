"""Mixed load for twenty minutes while versions come and go, every answer checked; then whether anything has grown.

    make soak                                # 20 minutes with TorchServe
    make soak ENGINE=inprocess MINUTES=60
    python tests/faults/soak.py --minutes 0.2 --results DIR     # whether the program works; too short to judge memory

Recorded in benchmarks/results/soak.{md,json}. Exits with 1 when an answer was wrong, a kind of request was never
answered, the log holds a traceback, anything stayed open or under way after the load, or a process kept growing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from flatness import FEWEST, MEGA, Tolerance, Verdict, judge
from publishing import publish
from rotation import Rotation, Truth
from served import Served, wait_until
from traffic import KINDS, AsyncCaller, Caller, Traffic

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

CALLERS = 6
PAUSES = {"inprocess": 1.0, "torchserve": 3.0}
"""Seconds between two steps of the versions; TorchServe starts a process for each one that it loads."""

JUDGED_MINUTES = 4.0
"""A shorter run is all warm-up."""

LEFT_OPEN = 8
"""Files and threads that may be there after the load and were not before it: pools that filled."""

TOLERANCES = {
    "gateway: memory": Tolerance(0.05, 16 * MEGA, "fragments, and counters of each version that ever answered"),
    "gateway: files": Tolerance(0.10, 10, "connections that come and go"),
    "gateway: threads": Tolerance(0.10, 4, "pools that grow when they are first needed"),
    "JVM: memory": Tolerance(0.25, 96 * MEGA, "its heap grows as the collector likes, up to torchserve_heap"),
    "JVM: files": Tolerance(0.10, 16, "the connections of workers that come and go"),
    "JVM: threads": Tolerance(0.10, 16, "the threads of workers that come and go"),
    "workers: memory": Tolerance(0.25, 64 * MEGA, "another worker while a version is being loaded"),
    "workers: number": Tolerance(0.0, 1, "another worker while a version is being loaded"),
}


class Watch:
    """Samples what the service's processes hold, about a thousand times in a run.

    Args:
        served: the service.
        seconds: how long the run is.
    """

    def __init__(self, served: Served, seconds: float) -> None:
        self._served, self._gateway = served, psutil.Process(served.process.pid)
        self._every = max(0.1, seconds / 1000)
        self.times: list[float] = []
        self.series: dict[str, list[float]] = {}

    def run(self, stopping: threading.Event) -> None:
        begin = time.monotonic()
        while not stopping.wait(self._every):
            self.times.append(time.monotonic() - begin)
            for name, value in self.look().items():
                self.series.setdefault(name, []).append(value)

    def look(self) -> dict[str, float]:
        """What they hold now."""
        found = _held("gateway", [self._gateway])
        jvm = list(self._served.children("jvm"))
        if jvm:
            workers = list(self._served.children("worker"))
            found |= _held("JVM", jvm)
            found |= {"workers: memory": _held("workers", workers)["workers: memory"], "workers: number": len(workers)}
        return found

    def verdicts(self, judged: bool) -> list[Verdict]:
        """One for each series; a run too short to be judged passes."""
        found = []
        for name, values in self.series.items():
            verdict = judge(name, self.times[-len(values) :], values, TOLERANCES[name])
            found.append(verdict if judged else Verdict(**{**vars(verdict), "judged": False}))
        return found


def _held(name: str, processes: list[psutil.Process]) -> dict[str, float]:
    """Of processes together; one that has just ended holds nothing."""
    total = {f"{name}: {what}": 0.0 for what in ("memory", "files", "threads")}
    for process in processes:
        try:
            with process.oneshot():
                held = (process.memory_info().rss, process.num_fds(), process.num_threads())
        except psutil.NoSuchProcess:
            continue
        for what, value in zip(total, held, strict=True):
            total[what] += value
    return total


def soak(engine: str, minutes: float) -> dict[str, Any]:
    """One run's record."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        publish(store, 1)
        served = Served(store, engine, stream_idle_seconds=20, request_head_seconds=10)
        try:
            return _soak(served, store, engine, minutes)
        finally:
            served.close()


def _soak(served: Served, store: Path, engine: str, minutes: float) -> dict[str, Any]:
    truth = Truth(store, 1)
    traffic = Traffic(served.grpc, served.http, truth)
    watch = Watch(served, 60 * minutes)
    stopping, complaints = threading.Event(), []
    rotation = Rotation(served, store, truth, min(PAUSES[engine], 60 * minutes / 40), stopping)
    before, begin = watch.look(), time.monotonic()
    with ThreadPoolExecutor(CALLERS + 3) as pool:
        callers = [*(Caller(traffic, number).run for number in range(CALLERS)), AsyncCaller(traffic).run]
        running = [pool.submit(caller, stopping) for caller in [*callers, watch.run]] + [pool.submit(rotation.run)]
        while time.monotonic() - begin < 60 * minutes and not any(future.done() for future in running):
            time.sleep(0.2)
        stopping.set()
        for future in running:
            if future.exception() is not None:
                complaints.append(f"{type(future.exception()).__name__}: {future.exception()}")
    seconds = time.monotonic() - begin
    complaints += _after(served, watch, before) + traffic.failures
    asked = {kind.__name__.replace("_", " ") for kind in KINDS} | {AsyncCaller.KIND}
    complaints += [f"{kind}: never answered" for kind in sorted(asked - set(traffic.kinds()))]
    complaints += _tracebacks(served.errors)
    code = served.end(signal.SIGTERM)
    if code:
        complaints.append(f"the service ended with {code}")
    judged = minutes >= JUDGED_MINUTES and len(watch.times) >= FEWEST
    verdicts = watch.verdicts(judged)
    complaints += [f"{verdict.name} grows" for verdict in verdicts if not verdict.flat]
    return {
        "engine": engine,
        "minutes": round(seconds / 60, 1),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "requests": sum(traffic.answers.values()),
        "answers": {f"{kind}: {outcome}": number for (kind, outcome), number in sorted(traffic.answers.items())},
        "steps": dict(rotation.done),
        "series": [{**vars(verdict), "growth": verdict.growth, "flat": verdict.flat} for verdict in verdicts],
        "complaints": complaints,
    }


def _tracebacks(lines: list[str]) -> list[str]:
    """Of each traceback in the log the line before it, its last place in the code and what was raised."""
    found = []
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            rest = itertools.takewhile(lambda text: text.startswith((" ", "Traceback")), lines[number:])
            places = [text.strip() for text in rest]
            raised = lines[number + len(places) : number + len(places) + 1]
            told = " | ".join(["log: " + lines[max(0, number - 1)], *places[-2:], *raised])
            found.append(re.sub(r'File ".*?([^/"]+)"', r'File "\1"', told))
    return found


def _after(served: Served, watch: Watch, before: dict[str, float]) -> list[str]:
    """What stayed behind when everybody has gone."""
    complaints = []
    for name in ("density_inflight_requests", "density_queue_rows"):
        try:
            wait_until(lambda name=name: served.metric(name) == 0, name)
        except AssertionError:
            complaints.append(f"{name} is {served.metric(name):g} when nobody asks any more")
    for name in ("gateway: files", "gateway: threads"):
        try:
            wait_until(lambda name=name: watch.look()[name] <= before[name] + LEFT_OPEN, name)
        except AssertionError:
            complaints.append(f"{name}: {watch.look()[name]:g} when nobody asks any more, {before[name]:g} before")
    return complaints


def page(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown page."""
    parts = ["# Soak", "", f"`make soak`. {_SUMMARY}", ""]
    for record in records:
        steps = ", ".join(f"{name} {number}" for name, number in record["steps"].items())
        wrong = sum(number for name, number in record["answers"].items() if name.endswith(": WRONG"))
        heading = f"{record['engine']}, {record['minutes']:g} minutes"
        parts += [
            f"## {heading}: {record['requests']} requests, {wrong} answered wrongly",
            "",
            f"{record['machine']}. Steps of the versions: {steps}.",
            "",
            "| | second fifth | last fifth | growth | allowed | still rising by | why so much is allowed | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        parts += ["| " + " | ".join(_cells(series)) + " |" for series in record["series"]]
        parts += ["", *(f"* {complaint}" for complaint in record["complaints"]), ""]
    return "\n".join(parts).rstrip() + "\n"


_SUMMARY = """\
One-row, large, named, bad, late, cancelled and abandoned requests over gRPC and HTTP, every body type, streams in both
directions, Open Inference and asyncio, while versions are published, chosen, rolled back, tried as canary and shadow,
damaged and retired, and clients are killed. Every answer is compared, to the bit, with what the version that it names
answers, and that version must have been one that could answer then. Of each series the medians of the second and the
last fifth are compared; what has grown by more than is allowed, and still rises by half as much at the slope of the
last two fifths, leaks. Megabytes are of 2^20 bytes."""


def _cells(series: dict[str, Any]) -> list[str]:
    memory = series["name"].endswith("memory")
    numbers = [series[key] for key in ("before", "after", "growth", "allowed", "rising")]
    shown = [f"{number / MEGA:.1f} MB" if memory else f"{number:.1f}" for number in numbers]
    verdict = ("flat" if series["flat"] else "**grows**") if series["judged"] else "too short to tell"
    return [series["name"], *shown, TOLERANCES[series["name"]].reason, verdict]


def record_beside(results: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the record in place of the engine's last one; all records."""
    path = results / "soak.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    records = sorted(
        [each for each in kept if each["engine"] != record["engine"]] + [record], key=lambda each: each["engine"]
    )
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n")
    (results / "soak.md").write_text(page(records))
    return records


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=sorted(PAUSES), default="torchserve")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of soak.md and soak.json")
    chosen = parser.parse_args(arguments)
    record = soak(chosen.engine, chosen.minutes)
    record_beside(chosen.results, record)
    print(page([record]))
    return 1 if record["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
