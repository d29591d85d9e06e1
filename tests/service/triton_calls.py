"""What an unchanged tritonclient asks of the service, and what it is told.

A program of its own: tritonclient's messages have the names that the service's have, and one process holds them once.

    python triton_calls.py grpc|http HOST:PORT    prints one JSON object
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np

ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)


def tensor(triton: Any, name: str, array: np.ndarray, datatype: str, **options: Any) -> Any:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, **options)
    return given


def values(answer: Any, *names: str) -> dict[str, Any]:
    return {name: None if answer.as_numpy(name) is None else answer.as_numpy(name).tolist() for name in names}


def refusal(triton: Any, call: Any) -> str:
    try:
        call()
    except triton.InferenceServerException as error:
        return str(error)
    return "not refused"


def metadata(kind: str, client: Any) -> dict[str, Any]:
    if kind == "grpc":
        return {
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata("pair", as_json=True),
        }
    return {"server": client.get_server_metadata(), "model": client.get_model_metadata("pair")}


def main(kind: str, address: str) -> dict[str, Any]:
    # Not before it is asked for: whoever only looks at this file may hold the service's messages.
    triton = importlib.import_module(f"tritonclient.{kind}")
    client = triton.InferenceServerClient(address)
    bad = ROWS.copy()
    bad[2, 1] = np.nan
    found: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models": [client.is_model_ready("wine"), client.is_model_ready("wine", "1"), client.is_model_ready("beer")],
        **metadata(kind, client),
        "scores": values(client.infer("wine", [tensor(triton, "rows", ROWS, "FP32")], request_id="one"), "log_prob"),
        "id": answer_id(kind, client.infer("wine", [tensor(triton, "rows", ROWS, "FP32")], request_id="one")),
        "double": values(client.infer("wine", [tensor(triton, "rows", ROWS.astype(np.float64), "FP64")]), "log_prob"),
        "older": values(client.infer("wine", [tensor(triton, "rows", ROWS, "FP32")], model_version="1"), "log_prob"),
        "bad": values(client.infer("wine", [tensor(triton, "rows", bad, "FP32")]), "log_prob"),
        "conditional": values(
            client.infer(
                "pair", [tensor(triton, "rows", ROWS, "FP32"), tensor(triton, "context", ROWS[:, :2].copy(), "FP32")]
            ),
            "log_prob",
        ),
        "drawn": values(
            client.infer("wine", [], parameters={"count": 5, "seed": 7, "start": 2}), "samples", "log_prob", "seed"
        ),
        "drawn by tensors": values(
            client.infer(
                "wine",
                [
                    tensor(triton, "count", np.array([5]), "INT64"),
                    tensor(triton, "seed", np.array([2**64 - 1], np.uint64), "UINT64"),
                ],
                outputs=[triton.InferRequestedOutput("seed"), triton.InferRequestedOutput("samples")],
            ),
            "samples",
            "log_prob",
            "seed",
        ),
        "narrow": refusal(triton, lambda: client.infer("wine", [tensor(triton, "rows", ROWS[:, :2].copy(), "FP32")])),
        "unknown model": refusal(triton, lambda: client.infer("beer", [tensor(triton, "rows", ROWS, "FP32")])),
        "unknown input": refusal(triton, lambda: client.infer("wine", [tensor(triton, "lines", ROWS, "FP32")])),
        "no input": refusal(triton, lambda: client.infer("wine", [])),
        "unknown output": refusal(
            triton,
            lambda: client.infer(
                "wine", [tensor(triton, "rows", ROWS, "FP32")], outputs=[triton.InferRequestedOutput("logits")]
            ),
        ),
    }
    if kind == "http":
        found["as JSON"] = values(
            client.infer(
                "wine",
                [tensor(triton, "rows", ROWS, "FP32", binary_data=False)],
                outputs=[triton.InferRequestedOutput("log_prob", binary_data=False)],
            ),
            "log_prob",
        )
        found["deflated"] = values(
            client.infer(
                "wine",
                [tensor(triton, "rows", ROWS, "FP32")],
                request_compression_algorithm="gzip",
                response_compression_algorithm="gzip",
            ),
            "log_prob",
        )
    client.close()
    return found


def answer_id(kind: str, answer: Any) -> str:
    return answer.get_response().id if kind == "grpc" else answer.get_response()["id"]


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:]), sys.stdout)
