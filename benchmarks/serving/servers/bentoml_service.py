"""BentoML with a batchable API, which over HTTP reads arrays as JSON.

    python bentoml_service.py PORT SCORER BATCH_SIZE

Started without arguments it is the module that BentoML imports.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from scorer import PlainScorer


@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 1000}, metrics={"enabled": False})
class Density:
    """Log-densities of ``rows``."""

    def __init__(self) -> None:
        self._scorer = PlainScorer(os.environ["BENCH_SCORER"])

    # It counts rows where the others count requests.
    @bentoml.api(batchable=True, max_batch_size=int(os.environ.get("BENCH_BATCH", "1")) * 4096, max_latency_ms=60_000)
    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        return self._scorer.log_prob(np.ascontiguousarray(rows, np.float32))


def main() -> None:
    port, scorer, batch_size = sys.argv[1:4]
    folder = Path(__file__).parent
    os.environ |= {
        "BENCH_SCORER": scorer,
        "BENCH_BATCH": batch_size,
        "PYTHONPATH": str(folder),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(Path.cwd()),
    }
    program = str(Path(sys.executable).with_name("bentoml"))
    arguments = ["serve", "bentoml_service:Density", "--working-dir", str(folder), "--host", "127.0.0.1"]
    os.execv(program, [program, *arguments, "--port", port])


if __name__ == "__main__":
    main()
