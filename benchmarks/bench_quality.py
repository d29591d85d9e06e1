"""Held-out negative log-likelihood of ``flowmodel``'s defaults beside other libraries' defaults.

    make bench            # the small ones: 1 seed, three tables, nothing is recorded
    make bench-quality    # all of it, 5 seeds, recorded in benchmarks/results/quality.{md,json}

Nats per row in the units of the data. A seed decides the split, or the sample, and the initial weights; see
``quality/tables.py`` for the tables and ``quality/models.py`` for how each library is fitted. Runs are saved one by
one, and ``--full`` goes on from those that the record holds; ``--again`` makes a model's runs anew.
"""

from __future__ import annotations

import os

# One thread for each run, and two runs at a time; libraries read these when they are imported.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import json
import math
import multiprocessing
import platform
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import table
from quality.models import MAX_EPOCHS, MODELS, PATIENCE
from quality.tables import TABLES, split

RESULTS = Path(__file__).parent / "results"
RECORD = RESULTS / "quality.json"
LIBRARIES = ("torch", "zuko", "nflows", "flowjax", "jax", "scikit-learn")
SMALL = ("iris", "moons", "gaussian")


def run(name: str, model: str, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = split(name, seed)
    begin = time.perf_counter()
    log_prob = MODELS[model](rows, seed)
    nll = -float(np.mean(log_prob))
    return {
        "table": name,
        "model": model,
        "seed": seed,
        "nll": nll if math.isfinite(nll) else None,
        "bad_rows": int((~np.isfinite(log_prob)).sum()),
        "true_nll": rows.true_nll,
        "rows": len(rows.train) + len(rows.validation),
        "columns": rows.train.shape[1],
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": machine(),
    }


def key(result: dict[str, Any]) -> tuple[str, str, int]:
    return result["table"], result["model"], result["seed"]


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def text(runs: list[dict[str, Any]], tables: list[str], models: list[str], jobs: int) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    machines = " and ".join(sorted({each["machine"] for each in runs}))
    return "\n".join(
        [
            "# Held-out negative log-likelihood, every library with its own defaults",
            "",
            f"`{' '.join(['python', *sys.argv])}` on {machines}, {jobs} runs at a time, one thread each; {versions}.",
            "",
            "Nats per row, in the units of the data, lower is better: the median over the seeds, in brackets half the",
            "range from the best seed to the worst. A seed decides the split, or the sample, and the first weights.",
            "Truth is that of the density itself on the same test rows. The last column but one is the mean",
            "difference, seed by seed, to the best peer by median, with its 95 % interval: ahead is all below nought.",
            f"At most {MAX_EPOCHS} epochs, patience {PATIENCE}, the same rows for validation and in each step.",
            "",
            table.markdown(runs, tables, models),
            "",
            f"Runs with a log-density that is not finite: {table.not_finite(runs, models)}.",
            "",
            f"Median time of a fit, whatever else the machine did: {table.seconds(runs, models)}.",
            "",
        ]
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--full", action="store_true", help="all tables, models and seeds, and record them")
    options.add_argument("--tables", nargs="+", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    options.add_argument("--models", nargs="+", choices=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    options.add_argument("--seeds", type=int, help="how many, from 0")
    options.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    options.add_argument("--record", type=Path, help="JSON file to go on from and to write; its table lies beside it")
    options.add_argument("--again", nargs="+", choices=list(MODELS), default=[], metavar="MODEL", help="run it anew")
    given = options.parse_args()
    tables = given.tables or list(TABLES if given.full else SMALL)
    models = given.models or list(MODELS)
    seeds = given.seeds or (5 if given.full else 1)
    record = given.record or (RECORD if given.full else None)

    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    if record and record.exists():
        runs = {key(each): each for each in json.loads(record.read_text())["runs"] if each["model"] not in given.again}
    missing = [(t, m, seed) for seed in range(seeds) for t in tables for m in models if (t, m, seed) not in runs]
    begin = time.perf_counter()
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *each) for each in missing]):
            result = done.result()
            runs[key(result)] = result
            shown = "NaN" if result["nll"] is None else f"{result['nll']:.4f}"
            print(f"{key(result)}: {shown} nats, {result['seconds']} s", file=sys.stderr, flush=True)
            if record:
                save(record, runs)
    kept = [each for each in runs.values() if each["seed"] < seeds and each["table"] in tables]
    page = text(kept, tables, models, given.jobs)
    print(page)
    print(f"{len(missing)} runs in {(time.perf_counter() - begin) / 60:.1f} min", file=sys.stderr)
    if record:
        save(record, runs)
        record.with_suffix(".md").write_text(page)


def save(record: Path, runs: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    versions = {name: metadata.version(name) for name in LIBRARIES}
    content = {
        "command": " ".join(["python", *sys.argv]),
        "versions": versions,
        "max_epochs": MAX_EPOCHS,
        "patience": PATIENCE,
        "runs": [runs[each] for each in sorted(runs)],
    }
    record.parent.mkdir(exist_ok=True)
    # Written aside and renamed, so that an interrupted benchmark leaves the record whole.
    aside = record.with_suffix(".part")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(record)


if __name__ == "__main__":
    main()
