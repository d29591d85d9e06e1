"""The Open Inference Protocol over gRPC and HTTP, asked by an unchanged tritonclient and by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import plain_http
import pytest
from conftest import Running, Start
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.client import DensityClient
from service.generated.inference import inference_service_pb2 as pb
from service.generated.inference.inference_service_pb2_grpc import GRPCInferenceServiceStub
from service.security.tokens import add_token

ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
Input = pb.ModelInferRequest.InferInputTensor


@pytest.fixture(scope="module")
def stub(wine: Running) -> Iterator[Any]:
    with grpc.insecure_channel(wine.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module", params=["grpc", "http"])
def found(request: pytest.FixtureRequest, wine: Running) -> dict[str, Any]:
    """What tritonclient was told."""
    address = wine.grpc if request.param == "grpc" else wine.http.removeprefix("http://")
    program = Path(__file__).with_name("triton_calls.py")
    command = [sys.executable, str(program), request.param, address]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout) | {"kind": request.param}


@pytest.fixture(scope="module")
def client(wine: Running) -> Iterator[DensityClient]:
    with DensityClient(wine.grpc) as client:
        yield client


def test_tritonclient_is_told_what_there_is(found: dict[str, Any]) -> None:
    assert (found["live"], found["ready"], found["models"]) == (True, True, [True, True, False])
    assert found["server"]["name"] == "flowmodel"
    assert found["server"]["extensions"] == ["binary_tensor_data"]
    model = found["model"]
    assert (model["name"], model["versions"], model["platform"]) == ("pair", ["1"], "flowmodel_torchscript")
    described = [(tensor["name"], tensor["datatype"], list(map(int, tensor["shape"]))) for tensor in model["inputs"]]
    assert described == [("rows", "FP32", [-1, 3]), ("context", "FP32", [-1, 2])]
    assert [tensor["name"] for tensor in model["outputs"]] == ["log_prob"]


def test_tritonclient_gets_the_log_densities(found: dict[str, Any], client: DensityClient) -> None:
    expected = client.log_prob("wine", ROWS)
    names = ["scores", "double"] + (["as JSON", "deflated"] if found["kind"] == "http" else [])
    for name in names:
        np.testing.assert_array_equal(np.array(found[name]["log_prob"], np.float32), expected, name)
    np.testing.assert_array_equal(
        np.array(found["older"]["log_prob"], np.float32), client.log_prob("wine", ROWS, version=1)
    )
    np.testing.assert_array_equal(
        np.array(found["conditional"]["log_prob"], np.float32), client.log_prob("pair", ROWS, ROWS[:, :2])
    )
    assert np.isnan(found["bad"]["log_prob"]).tolist() == [row == 2 for row in range(7)]
    assert found["id"] == "one"


def test_tritonclient_gets_samples(found: dict[str, Any], client: DensityClient) -> None:
    drawn = client.draw("wine", 7, seed=7)
    np.testing.assert_array_equal(np.array(found["drawn"]["samples"], np.float32), drawn.samples[2:])
    np.testing.assert_array_equal(np.array(found["drawn"]["log_prob"], np.float32), drawn.log_prob[2:])
    assert found["drawn"]["seed"] == [7]
    by_tensors = found["drawn by tensors"]
    samples = client.sample("wine", 5, seed=2**64 - 1)
    np.testing.assert_array_equal(np.array(by_tensors["samples"], np.float32), samples)
    assert (by_tensors["seed"], by_tensors["log_prob"]) == ([2**64 - 1], None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("narrow", "shape [7, 2] given, [N, 3] expected: wine takes 3 features (alpha, beta, gamma)"),
        ("unknown model", "no model 'beer'; loaded: pair, wine"),
        ("unknown input", "lines: unknown; rows and context are taken, or count, seed and start to draw samples"),
        ("no input", "rows: missing; give it to have rows scored, or count"),
        ("unknown output", "logits: no output of this request; it has log_prob"),
    ],
)
def test_tritonclient_is_refused_with_the_reason(found: dict[str, Any], name: str, text: str) -> None:
    assert text in found[name]


def infer(*inputs: Any, raw: list[bytes] | None = None, **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="wine", inputs=inputs, raw_input_contents=raw or [], **fields)


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("FP32", {"fp32_contents": [1, 2, 3]}),
        ("FP64", {"fp64_contents": [1, 2, 3]}),
        ("INT8", {"int_contents": [1, 2, 3]}),
        ("INT64", {"int64_contents": [1, 2, 3]}),
        ("UINT16", {"uint_contents": [1, 2, 3]}),
        ("UINT64", {"uint64_contents": [1, 2, 3]}),
    ],
)
def test_typed_contents(stub: Any, client: DensityClient, datatype: str, contents: dict[str, Any]) -> None:
    answer = stub.ModelInfer(infer(Input(name="rows", datatype=datatype, shape=[1, 3], contents=contents)), timeout=10)
    assert (answer.model_name, answer.model_version) == ("wine", "2")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("log_prob", "FP32", [1])
    (log_prob,) = np.frombuffer(answer.raw_output_contents[0], "<f4")
    assert log_prob == client.log_prob("wine", [[1, 2, 3]])[0]


def test_half_precision_comes_raw(stub: Any, client: DensityClient) -> None:
    rows = np.array([[1, 2, 3]], "<f2")
    answer = stub.ModelInfer(infer(Input(name="rows", datatype="FP16", shape=[1, 3]), raw=[rows.tobytes()]), timeout=10)
    (log_prob,) = np.frombuffer(answer.raw_output_contents[0], "<f4")
    assert log_prob == client.log_prob("wine", [[1, 2, 3]])[0]


def test_bad_rows_are_counted_in_the_parameters(stub: Any, wine: Running) -> None:
    contents = {"fp32_contents": [1, 2, 3, float("nan"), 5, 6, 7, float("inf"), 9]}
    answer = stub.ModelInfer(infer(Input(name="rows", datatype="FP32", shape=[3, 3], contents=contents)), timeout=10)
    assert answer.parameters["row_errors"].int64_param == 2
    assert answer.parameters["first_row_error"].string_param.startswith("row 1: alpha (column 0 of rows) is nan")
    rows = {"name": "rows", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, "NaN", 5, 6]}
    over_http = plain_http.post(f"{wine.http}/v2/models/wine/infer", json={"inputs": [rows]}).json()
    assert over_http["parameters"]["row_errors"] == 1
    assert over_http["outputs"][0]["data"][1] == "NaN"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (infer(Input(name="rows", datatype="FP32", shape=[1, 3]), raw=[b"123"]), "3 bytes given, which are no whole"),
        (infer(Input(name="rows", datatype="FP32", shape=[2, 3]), raw=[b"1234" * 3]), "3 elements given; 6 expected"),
        (infer(Input(name="rows", datatype="FP32", shape=[1, 3]), raw=[b"", b""]), "2 given for 1 inputs"),
        (infer(Input(name="rows", datatype="BYTES", shape=[1, 3]), raw=[b""]), "'BYTES' given; FP32 or FP64 expected"),
        (infer(Input(name="rows", datatype="BOOL", shape=[3]), raw=[b"\1\1\1"]), "BOOL given; FP32 or FP64 expected"),
        (infer(Input(name="rows", datatype="FP32", shape=[-1, 3]), raw=[b""]), "[-1, 3] given"),
        (infer(Input(name="rows", datatype="FP32", shape=[2**40] * 3), raw=[b""]), "0 elements given"),
        (infer(Input(name="rows", datatype="FP32")), "[] given; expected as [N, D]"),
        (
            infer(Input(name="rows", datatype="FP32", shape=[1, 3], contents={"fp64_contents": [1, 2, 3]})),
            "fp64_contents given; fp32_contents expected for FP32",
        ),
        (
            infer(Input(name="rows", datatype="INT8", shape=[1, 1], contents={"int_contents": [300]})),
            "holds a number that is none of INT8",
        ),
        (
            infer(Input(name="count", datatype="INT64", shape=[2], contents={"int64_contents": [3, 4]})),
            "shape [2] given; one number expected",
        ),
        (
            infer(Input(name="count", datatype="FP32", shape=[1], contents={"fp32_contents": [float("nan")]})),
            "nan given; a whole number expected",
        ),
        (infer(parameters={"count": pb.InferParameter(int64_param=0)}), "count: 0 given; 1 to 1000000 expected"),
        (infer(parameters={"count": pb.InferParameter(string_param="many")}), "'many' given; a whole number expected"),
    ],
)
def test_what_grpc_refuses(stub: Any, request_: pb.ModelInferRequest, text: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request_, timeout=10)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in raised.value.details()


GOOD = {"name": "rows", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "is not JSON"),
        (b"[]", "is JSON but no object"),
        ({"inputs": [GOOD], "nonsense": 1}, "nonsense: unknown"),
        ({"inputs": GOOD}, "a list expected"),
        ({"inputs": [1]}, "inputs[0]: 1 given; an object expected"),
        ({"inputs": [{"shape": [1]}]}, "inputs[0].name: missing; a text expected"),
        ({"inputs": [GOOD | {"shape": ["1", 3]}]}, "rows.shape: ['1', 3] given; whole numbers expected"),
        ({"inputs": [GOOD | {"shape": [1, 4]}]}, "3 elements given; 4 expected for shape [1, 4]"),
        ({"inputs": [GOOD | {"data": ["x", 2, 3]}]}, 'rows.data[0]: "x" given; a number expected'),
        ({"inputs": [GOOD | {"data": None}]}, "rows.data: null given; a list of rows expected"),
        ({"inputs": [GOOD | {"datatype": "BYTES"}]}, "'BYTES' given; FP32 or FP64 expected"),
        ({"inputs": [GOOD, GOOD]}, "rows: given twice"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": 12}}]}, "12 given where 0 bytes follow the JSON"),
        ({"inputs": [GOOD], "outputs": [{"name": "logits"}]}, "logits: no output of this request"),
        ({"inputs": [GOOD], "outputs": [{}]}, "outputs[].name: missing"),
    ],
)
def test_what_http_refuses(wine: Running, body: Any, text: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = plain_http.post(f"{wine.http}/v2/models/wine/infer", content=content)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert text in answer.json()["error"]


@pytest.mark.parametrize("length", ["x", "-1", "99999"])
def test_a_wrong_length_of_the_json_is_refused(wine: Running, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = plain_http.post(f"{wine.http}/v2/models/wine/infer", json={"inputs": [GOOD]}, headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


def test_bytes_that_belong_to_no_input_are_refused(wine: Running) -> None:
    body = json.dumps({"inputs": [GOOD]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    answer = plain_http.post(f"{wine.http}/v2/models/wine/infer", content=body + b"1234", headers=headers)
    assert "4 bytes follow that belong to no input" in answer.json()["error"]


def test_what_is_not_there(wine: Running) -> None:
    assert plain_http.get(f"{wine.http}/v2/models/beer").status_code == 404
    assert plain_http.get(f"{wine.http}/v2/models/beer/ready").json() == {"name": "beer", "ready": False}
    refused = plain_http.post(f"{wine.http}/v2/models/beer/infer", json={"inputs": [GOOD]}).json()
    assert refused["error"].startswith("no mod")


def test_inferences_are_counted_as_what_they_are(wine: Running) -> None:
    labels = {"code": "OK", "model": "wine", "version": "2"}

    def counted() -> list[float]:
        return [wine.metric("density_requests_total", method=method, **labels) for method in ("LogProb", "Sample")]

    scored, drawn = counted()
    plain_http.post(f"{wine.http}/v2/models/wine/infer", json={"inputs": [GOOD]})
    plain_http.post(f"{wine.http}/v2/models/wine/versions/2/infer", json={"parameters": {"count": 2}})
    assert counted() == [scored + 1, drawn + 1]


def test_a_service_without_models_is_live_but_not_ready(start: Start) -> None:
    service = start()
    assert plain_http.get(f"{service.http}/v2/health/live").status_code == 200
    assert plain_http.get(f"{service.http}/v2/health/ready").status_code == 503
    with grpc.insecure_channel(service.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=10).live
        assert not stub.ServerReady(pb.ServerReadyRequest(), timeout=10).ready
        assert not stub.ModelReady(pb.ModelReadyRequest(name="wine"), timeout=10).ready


def test_probes_need_no_token_and_inference_its_scope(start: Start, published: Path, tmp_path: Path) -> None:
    secret = add_token(tmp_path / "tokens", "drawer", ["sample"])
    service = start(published, token_file=tmp_path / "tokens")
    headers = {"Authorization": f"Bearer {secret}"}
    infer_url = f"{service.http}/v2/models/wine/infer"
    assert plain_http.get(f"{service.http}/v2/health/live").status_code == 200
    assert plain_http.get(f"{service.http}/v2/health/ready").status_code == 200
    assert plain_http.get(f"{service.http}/v2/models/wine").status_code == 401
    assert plain_http.post(infer_url, json={"inputs": [GOOD]}, headers=headers).status_code == 403
    assert plain_http.post(infer_url, json={"parameters": {"count": 1}}, headers=headers).status_code == 200
    with grpc.insecure_channel(service.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=10).ready
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelMetadata(pb.ModelMetadataRequest(name="wine"), timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_reflection_lists_the_protocol(wine: Running) -> None:
    with grpc.insecure_channel(wine.grpc) as channel:
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    names = {service.name for service in answer.list_services_response.service}
    assert "inference.GRPCInferenceService" in names
