"""How each server is asked: what is posted where, and how the log-densities are read out of its answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flowmodel.runtime.envelope import pack, unpack
from service.generated.density.v1 import density_service_pb2 as density
from service.generated.inference import inference_service_pb2 as inference
from service.generated.torchserve import inference_pb2 as torchserve
from serving.model import FEATURES, NAME, Question

Rows = NDArray[np.float32]

_FRAME_BYTES = 5
"""Before a message of gRPC: whether it is compressed, and its length."""

_LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Protocol:
    """One way to ask one kind of server.

    Attributes:
        path: that is posted to; of gRPC the full name of the method.
        encode: rows ``[N, D]`` as a body, or a gRPC message.
        decode: an answer's body, or message, as log-densities ``[N]``.
        grpc: over HTTP/2 with gRPC's framing, or plain HTTP/1.1.
        headers: of the request.
        echoes: answers the rows themselves.
    """

    path: str
    encode: Callable[[Rows], bytes]
    decode: Callable[[bytes], Rows]
    grpc: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    echoes: bool = False

    def body(self, rows: Rows) -> bytes:
        """What a client that knows nothing of gRPC posts."""
        message = self.encode(rows)
        return b"\0" + len(message).to_bytes(4, "big") + message if self.grpc else message

    def post_headers(self) -> dict[str, str]:
        """What it posts it with."""
        return {"content-type": "application/grpc", "te": "trailers"} if self.grpc else dict(self.headers)

    def verify(self, address: str, question: Question, seconds: float) -> int:
        """Ask once and see that the answer is right; returns how many bytes of body it came in.

        Raises:
            grpc.RpcError: the call failed.
            OSError: nobody listens there.
            ValueError: the answer's status is not 200, or the answer wrong.
        """
        answer, length = self._ask(address, question.rows, seconds)
        if not self.echoes:
            question.check(answer)
        elif not np.array_equal(answer, question.rows.ravel()):
            raise ValueError("the echo is not what was sent")
        return length

    def _ask(self, address: str, rows: Rows, seconds: float) -> tuple[Rows, int]:
        if self.grpc:
            with grpc.insecure_channel(address, _LIMITS) as channel:
                call = channel.unary_unary(f"/{self.path}")
                message = call(self.encode(rows), timeout=seconds)
            return self.decode(message), len(message) + _FRAME_BYTES
        connection = http.client.HTTPConnection(address, timeout=seconds)
        try:
            connection.request("POST", f"/{self.path}", self.encode(rows), dict(self.headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{address}/{self.path} answered {response.status}: {content[:200]!r}")
        return self.decode(content), len(content)


def _floats(content: bytes) -> Rows:
    return np.frombuffer(content, "<f4")


def _density_request(rows: Rows) -> bytes:
    tensor = density.Tensor(data_type=density.DATA_TYPE_FLOAT32, shape=rows.shape, data=rows.tobytes())
    return density.LogProbRequest(model=NAME, rows=tensor).SerializeToString()


def _density_answer(message: bytes) -> Rows:
    return _floats(density.LogProbResponse.FromString(message).log_prob.data)


def _torchserve_request(name: str, key: str, data: bytes) -> bytes:
    return torchserve.PredictionsRequest(model_name=name, input={key: data}).SerializeToString()


def _torchserve_answer(message: bytes) -> bytes:
    return torchserve.PredictionResponse.FromString(message).prediction


def _inference_request(rows: Rows) -> bytes:
    tensor = inference.ModelInferRequest.InferInputTensor(name="rows", datatype="FP32", shape=rows.shape)
    request = inference.ModelInferRequest(model_name=NAME, inputs=[tensor], raw_input_contents=[rows.tobytes()])
    return request.SerializeToString()


def _inference_answer(message: bytes) -> Rows:
    answer = inference.ModelInferResponse.FromString(message)
    if answer.raw_output_contents:
        return _floats(answer.raw_output_contents[0])
    return np.array(answer.outputs[0].contents.fp32_contents, np.float32)


def _arrow_request(rows: Rows) -> bytes:
    batch = pa.record_batch(list(rows.T.copy()), names=list(FEATURES))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _arrow_answer(content: bytes) -> Rows:
    return pa.ipc.open_stream(content).read_all()["log_prob"].to_numpy()


def _json_request(rows: Rows) -> bytes:
    return json.dumps({"rows": rows.tolist()}, separators=(",", ":")).encode()


def _json_answer(content: bytes) -> Rows:
    answer = json.loads(content)
    return np.array(answer["log_prob"] if isinstance(answer, dict) else answer, np.float32)


_OCTETS = "application/octet-stream"
_ARROW = "application/vnd.apache.arrow.stream"
_PREDICTIONS = "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

DENSITY = Protocol("density.v1.DensityService/LogProb", _density_request, _density_answer)
ECHO = Protocol(
    "bench.Echo/Echo",
    _density_request,
    lambda message: _floats(density.LogProbRequest.FromString(message).rows.data),
    echoes=True,
)
INFERENCE = Protocol("inference.GRPCInferenceService/ModelInfer", _inference_request, _inference_answer)
TORCHSERVE = Protocol(
    _PREDICTIONS,
    lambda rows: _torchserve_request("plain", "data", rows.tobytes()),
    lambda message: _floats(_torchserve_answer(message)),
)
TORCHSERVE_ARCHIVE = Protocol(
    _PREDICTIONS,
    lambda rows: _torchserve_request(NAME, "envelope", pack({"op": "log_prob"}, {"rows": rows})),
    lambda message: unpack(_torchserve_answer(message))[1]["log_prob"],
)
"""As the gateway's own engine asks."""
DENSITY_RAW = Protocol(
    f"v1/models/{NAME}:logProb", lambda rows: rows.tobytes(), _floats, grpc=False, headers={"content-type": _OCTETS}
)
DENSITY_ARROW = Protocol(
    f"v1/models/{NAME}:logProb", _arrow_request, _arrow_answer, grpc=False, headers={"content-type": _ARROW}
)
RAW = Protocol("log_prob", lambda rows: rows.tobytes(), _floats, grpc=False, headers={"content-type": _OCTETS})
JSON = Protocol("log_prob", _json_request, _json_answer, grpc=False, headers={"content-type": "application/json"})
