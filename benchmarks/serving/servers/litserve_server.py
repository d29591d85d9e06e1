"""LitServe with batching; it reads JSON or forms and nothing else.

    python litserve_server.py PORT SCORER BATCH_SIZE

Annotations are not postponed here: LitServe looks at the one of ``request``, which it fills with the JSON's value.
"""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from scorer import PlainScorer


class Api(litserve.LitAPI):
    """Log-densities of ``rows``."""

    def setup(self, device: str) -> None:
        self._scorer = PlainScorer(sys.argv[2])

    def decode_request(self, request: Request) -> np.ndarray:
        return np.array(request["rows"], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, x: list[np.ndarray]) -> list[np.ndarray]:
        log_prob = self._scorer.log_prob(np.concatenate(x))
        return np.split(log_prob, np.cumsum([len(rows) for rows in x])[:-1])

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"log_prob": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=int(sys.argv[3]), batch_timeout=0.001, api_path="/log_prob")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
