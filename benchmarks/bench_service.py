"""The service beside TorchServe, a bare echo and five other model servers, each serving the very same scorer.

    make bench-service                                  # all of it, recorded in benchmarks/results/service.{md,json}
    python benchmarks/bench_service.py --quick          # ours, TorchServe and the echo once, nothing is recorded

h2load keeps 32 and 256 requests in flight, over loopback, closed loop. A server is started, an answer of every kind is
checked against the reference, all its figures are taken, and it is ended before the next one is started; all servers
are measured once in a round, and the page has medians over rounds. Rounds are saved one server at a time: a run that
was interrupted, or bounded by ``--at-most``, goes on from there, unless the code, the machine or a version has changed.

The model is one affine autoregressive layer, D = 8, two hidden layers of 128 (``--layers`` for more).
``serving/subjects.py`` says how each server is run, ``serving/targets.py`` what is reached by when.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from kernel import machine
from kernel.record import Record, fingerprint
from serving import page
from serving.load import LoadError, find_h2load
from serving.measurement import Effort, measure, scorer_alone
from serving.model import Model
from serving.subjects import ECHO, MLSERVER, OURS, OURS_TORCHSERVE, SERVERS, TORCHSERVE
from serving.targets import LOAD, SCORER

import flowmodel
import service

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "grpcio", "uvicorn", "uvloop", "torchserve", "fastapi", "litserve", "ray", "bentoml")
QUICK = Effort(seconds=0.7, warm=0.3)
QUICK_SERVERS = [ECHO, OURS, TORCHSERVE, OURS_TORCHSERVE]


def main() -> None:
    given = options()
    try:
        find_h2load()
    except LoadError as error:
        sys.exit(str(error))
    effort = QUICK if given.quick else Effort(seconds=given.seconds)
    cores = os.cpu_count() or 1
    versions = _versions()
    about = {
        "code": [fingerprint(Path(package.__file__ or "").parent) for package in (flowmodel, service)],
        "machine": machine.description(),
        "versions": versions,
        "effort": vars(effort),
        "model": {"layers": given.layers},
        "rows": given.rows,
        "inflight": given.inflight,
    }
    record = Record(given.record or (None if given.quick else RESULTS / "service.json"), about)
    record.command = " ".join(["python", *sys.argv])
    if record.dropped:
        print(f"{record.dropped} rows are of other code, versions or machine: measured anew", file=sys.stderr)
    if given.again:
        record.rows = [row for row in record.rows if row["key"][0] not in given.subjects]
    begin = time.time()
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-service-") as folder:
        model = Model(Path(folder), given.layers)
        for number in range(given.rounds):
            if not record.find(SCORER, cores, ["scorer", number]):
                record.put({"section": SCORER, "threads": cores, "key": ["scorer", number], **scorer_alone(model, 1.0)})
            for name in given.subjects:
                if time.time() > begin + given.at_most or name in failed or record.find(LOAD, cores, [name, number]):
                    continue
                if not _measured(record, name, number, model, given, effort):
                    failed.append(name)
    _finish(record, versions, begin, given.layers)
    if failed:
        sys.exit(f"could not be measured, see above: {', '.join(failed)}")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few servers, one short round, nothing is recorded")
    parser.add_argument("--subjects", nargs="+", choices=SERVERS, metavar="SERVER",
                        help=", ".join(f'"{name}"' for name in SERVERS))  # fmt: skip
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 64, 4096], metavar="N", help="of a request")
    parser.add_argument("--inflight", nargs="+", type=int, default=[32, 256], metavar="N",
                        help="requests under way at once")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="how often each server is started and measured (3)")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="of load for each figure")
    parser.add_argument("--layers", type=int, default=1, help="affine autoregressive layers of the flow")
    parser.add_argument("--record", type=Path, help="JSON file to go on from; the page lies beside it")
    parser.add_argument("--again", action="store_true", help="measure the servers anew")
    parser.add_argument("--at-most", type=float, default=1500.0, metavar="SECONDS",
                        help="start no server after so long (1500)")  # fmt: skip
    given = parser.parse_args()
    given.subjects = given.subjects or (QUICK_SERVERS if given.quick else list(SERVERS))
    given.rounds = given.rounds or (1 if given.quick else 3)
    if min(given.rows) < 1 or min(given.inflight) < 2:
        parser.error("--rows takes numbers from 1, --inflight from 2; one request in flight is measured in any case")
    return given


def _measured(record: Record, name: str, number: int, model: Model, given: argparse.Namespace, effort: Effort) -> bool:
    """Measure one server once and keep what was found; whether there is anything."""
    begin = time.time()
    row: dict[str, Any] = {"section": LOAD, "threads": os.cpu_count() or 1, "key": [name, number]}
    try:
        row |= measure(SERVERS[name], model, given.rows, given.inflight, effort)
    except Exception:
        traceback.print_exc()
        return False
    row["took"] = round(time.time() - begin, 1)
    record.put(row)
    for cell in row["cells"]:
        where = f"{cell['subject']}, rows: {cell['rows']}, in flight: {cell['inflight']}"
        found = cell.get("failed") or f"{cell['rate']:.0f}/s, p50 {cell['p50']:.2f} ms, CPU {cell['cpu_us']:.0f} us"
        print(f"round {number}: {where}: {found}", file=sys.stderr, flush=True)
    return True


def _versions() -> dict[str, str]:
    """Of h2load and the packages, of MLServer in its own environment."""
    found = {"h2load": subprocess.run([find_h2load(), "--version"], capture_output=True, text=True).stdout.split()[-1]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    asked = "from importlib import metadata; print(metadata.version('mlserver'))"
    done = subprocess.run([SERVERS[MLSERVER].python(), "-c", asked], capture_output=True, text=True)
    return found | ({"mlserver": done.stdout.strip()} if done.returncode == 0 else {})


def _finish(record: Record, versions: dict[str, str], begin: float, layers: int) -> None:
    """Write the page, and print it."""
    rows = [row for row in record.rows if row["section"] == LOAD]
    rounds = max((row["key"][1] + 1 for row in rows), default=0)
    minutes = sum(row["took"] for row in rows) / 60
    heading = (
        f"`{record.command}` on {machine.description()}; {', '.join(f'{k} {v}' for k, v in versions.items())}. "
        f"D = 8, two hidden layers of 128, {layers} affine autoregressive layer{'s' if layers > 1 else ''}; h2load on "
        f"the same cores, medians of {rounds} rounds in {minutes:.0f} minutes."
    )
    text = page.markdown(record.rows, heading)
    if record.path:
        record.save()
        record.path.with_suffix(".md").write_text(text)
    print(text)
    print(f"{(time.time() - begin) / 60:.1f} min", file=sys.stderr)


if __name__ == "__main__":
    main()
