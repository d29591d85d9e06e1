"""Ray Serve with ``@serve.batch``, raw bytes over its HTTP proxy.

python ray_server.py PORT SCORER BATCH_SIZE
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

PORT, SCORER, BATCH_SIZE = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},
)
class Density:
    """Log-densities of the body's rows."""

    def __init__(self) -> None:
        from scorer import PlainScorer

        self._scorer = PlainScorer(SCORER)

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=0.001)
    async def score(self, bodies: list[bytes]) -> list[bytes]:
        return self._scorer.score_all(bodies)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.score(await request.body()), media_type="application/octet-stream")


def main() -> None:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=2**27,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
        _temp_dir=tempfile.mkdtemp(prefix="ray-"),
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Density.bind(), route_prefix="/log_prob")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
