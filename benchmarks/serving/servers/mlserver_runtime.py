"""MLServer with a runtime of its own, adaptive batching, tensors of the Open Inference Protocol.

    python mlserver_runtime.py GRPC_PORT SCORER BATCH_SIZE

Started without arguments it is the module that MLServer imports.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from scorer import PlainScorer


class Runtime(MLModel):
    """Log-densities of the input ``rows``."""

    async def load(self) -> bool:
        self._scorer = PlainScorer(str(self.settings.parameters.uri))  # type: ignore[union-attr]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = np.ascontiguousarray(NumpyCodec.decode_input(payload.inputs[0]), np.float32)
        output = NumpyCodec.encode_output("log_prob", self._scorer.log_prob(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> None:
    port, scorer, batch_size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    http, metrics = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    server = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": http,
        "metrics_port": metrics,
        "grpc_max_message_length": 2**26,
        # In the server's own process: a worker process would only add the way there and back.
        "parallel_workers": 0,
        "logging_settings": None,
        "debug": False,
    }
    model = {
        "name": "bench",
        "implementation": "mlserver_runtime.Runtime",
        "max_batch_size": batch_size,
        "max_batch_time": 0.001,
        "parameters": {"uri": scorer},
    }
    Path("settings.json").write_text(json.dumps(server))
    Path("model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", "."])


if __name__ == "__main__":
    main()
