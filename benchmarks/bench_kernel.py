"""The native code of the flows beside dense passes, the machine's peak and six other libraries.

    make bench-kernel                                   # all of it, recorded in benchmarks/results/kernel.{md,json}
    python benchmarks/bench_kernel.py --quick           # two minutes, nothing is recorded

Float32, medians of interleaved repetitions in one process for each section and number of threads. Rows are saved one
by one: a run that was interrupted, or bounded by ``--at-most``, goes on from those that the record holds, unless the
code, the machine or a version has changed since. ``kernel/sections.py`` says what is measured, ``kernel/targets.py``
what it is held against.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from kernel import machine, page, plots
from kernel.peers import DISTRIBUTIONS, installed, versions
from kernel.record import Record, fingerprint
from kernel.sections import SECTIONS, Settings
from kernel.stopwatch import Effort

import flowmodel

RESULTS = Path(__file__).parent / "results"
LIBRARY = Path(flowmodel.__file__).parent
"""Where it is imported from, which need not be beside this file."""

QUICK = Effort(seconds=0.15, rounds=3, longest=1.0)
QUICK_STEPS = 200


def main() -> None:
    given = options()
    if given.worker:
        work(json.loads(given.worker))
        return
    effort = QUICK if given.quick else Effort()
    chosen = [name for name in given.peers if name in installed()]
    missing = [name for name in given.peers if name not in chosen]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    library_versions = {name: metadata.version(name) for name in ("torch", "numpy")} | versions(installed())
    about = {
        "code": fingerprint(LIBRARY),
        "machine": machine.description(),
        "versions": library_versions,
        "effort": vars(effort),
    }
    record = Record(given.record or (None if given.quick else RESULTS / "kernel.json"), about)
    record.command = " ".join(["python", *sys.argv])
    if record.dropped:
        print(f"{record.dropped} rows are of other code, versions or machine: measured anew", file=sys.stderr)
    if given.again:
        record.forget(given.sections)
    if given.disturbed is not None:
        record.rows = [row for row in record.rows if (row["others"] or 0.0) <= given.disturbed]
    begin = time.time()
    deadline = begin + given.at_most if given.at_most else None
    failed = 0
    for name in given.sections:
        for threads in given.threads if SECTIONS[name].both else given.threads[:1]:
            missing_keys = [key for key in keys(name, given, chosen) if not record.find(name, threads, key)]
            each = [[key] for key in missing_keys] if SECTIONS[name].alone else [missing_keys]
            for these in filter(None, each):
                settings = Settings(threads, effort, chosen, QUICK_STEPS if given.quick else 3001)
                failed += measure(record, name, these, settings, deadline)
    finish(record, begin, library_versions)
    if failed:
        sys.exit(f"{failed} rows could not be measured; see above")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    most = min(2, os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions, nothing is recorded")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help=", ".join(SECTIONS))  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, most}, reverse=True), metavar="N",
                        help="numbers of threads, the largest first (2 1)")  # fmt: skip
    parser.add_argument("--peers", nargs="*", choices=DISTRIBUTIONS, default=list(DISTRIBUTIONS), metavar="PEER",
                        help=", ".join(DISTRIBUTIONS))  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=size, metavar="D,H,B",
                        help="sizes of layer, peers and training in place of their own")  # fmt: skip
    parser.add_argument("--record", type=Path, help="JSON file to go on from; page and plots lie beside it")
    parser.add_argument("--again", action="store_true", help="measure the sections anew")
    parser.add_argument("--disturbed", type=float, metavar="SHARE",
                        help="measure anew the rows during which others used more of the cores")  # fmt: skip
    parser.add_argument("--at-most", type=float, metavar="SECONDS", help="begin no row after so long")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def size(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) != 3 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given; expected D,H,B, such as 21,256,4096")
    return numbers


def keys(name: str, given: argparse.Namespace, chosen: list[str]) -> list[list[Any]]:
    section = SECTIONS[name]
    if given.sizes and name in ("layer", "peers", "training"):
        return given.sizes
    return (section.quick if given.quick else section.keys)(chosen)


def measure(record: Record, name: str, these: list[Any], settings: Settings, deadline: float | None) -> int:
    """Measure rows in a process of its own, which JAX and OpenMP need to be told their threads; how many failed."""
    task = {"section": name, "keys": these, "deadline": deadline, "threads": settings.threads,
            "effort": vars(settings.effort), "peers": settings.peers, "steps": settings.steps}  # fmt: skip
    command = [sys.executable, __file__, "--worker", json.dumps(task)]
    environment = os.environ | machine.thread_environment(settings.threads)
    failed = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None  # noqa: S101
        for line in worker.stdout:
            if not line.startswith("{"):
                print(line, end="", file=sys.stderr)
                continue
            row = json.loads(line)
            print(f"{name} {row['key']}, threads: {settings.threads}: {row['took']:.1f} s", file=sys.stderr, flush=True)
            if "failed" in row:
                failed += 1
            else:
                record.put(row)
    return failed + (worker.returncode != 0)


def work(task: dict[str, Any]) -> None:
    """Measure the task's rows, one line of JSON each."""
    machine.limit_threads(task["threads"])
    settings = Settings(task["threads"], Effort(**task["effort"]), task["peers"], task["steps"])
    for key in task["keys"]:
        if task["deadline"] and time.time() > task["deadline"]:
            return
        begin, before = time.time(), machine.usage()
        row = {"section": task["section"], "threads": task["threads"], "key": key}
        try:
            row |= SECTIONS[task["section"]].measure(key, settings)
        except Exception as error:
            traceback.print_exc()
            row["failed"] = str(error)
        row["others"] = machine.share_of_others(before, machine.usage())
        row["took"] = round(time.time() - begin, 1)
        print(json.dumps(row), flush=True)


def finish(record: Record, begin: float, library_versions: dict[str, str]) -> None:
    """Write the page and the plots, and print the page."""
    listed = ", ".join(f"{name} {version}" for name, version in library_versions.items())
    minutes = sum(row["took"] for row in record.rows) / 60
    heading = (
        f"`{record.command}` on {machine.description()}; {listed}. Float32, medians of interleaved repetitions, "
        f"{len(record.rows)} rows in {minutes:.0f} minutes, code {record.about['code']}."
    )
    figures = {}
    if record.path:
        record.save()
        figures = plots.draw(record.rows, record.path.parent, record.path.stem)
    text = page.markdown(record.rows, heading, figures)
    if record.path:
        record.path.with_suffix(".md").write_text(text)
    print(text)
    print(f"{(time.time() - begin) / 60:.1f} min", file=sys.stderr)


if __name__ == "__main__":
    main()
