"""Bad input over gRPC and HTTP: a clear error each time, and a service that goes on answering."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import plain_http
import pytest
from conftest import Running
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub

FLOAT32 = pb.DATA_TYPE_FLOAT32


def tensor(array: Any, **changes: Any) -> pb.Tensor:
    array = np.asarray(array, np.float32)
    return pb.Tensor(**{"data_type": FLOAT32, "shape": array.shape, "data": array.tobytes()} | changes)


@pytest.fixture(autouse=True)
def alive(wine: Running) -> Iterator[None]:
    """After every bad request the service answers a good one."""
    yield
    answer = plain_http.post(f"{wine.http}/v1/models/wine:logProb", json={"rows": [[1, 2, 3]]})
    assert answer.status_code == 200
    assert len(answer.json()["log_prob"]) == 1


@pytest.fixture(scope="module")
def stub(wine: Running) -> Iterator[Any]:
    with grpc.insecure_channel(wine.grpc) as channel:
        yield DensityServiceStub(channel)


def details(error: grpc.RpcError) -> dict[str, Any]:
    """What a failed call brought, by the name of its message."""
    found = {}
    for detail in rpc_status.from_call(error).details:
        message = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])()
        detail.Unpack(message)
        found[type(message).__name__] = message
    return found


GRPC_CASES = [
    ("wrong width", pb.LogProbRequest(model="wine", rows=tensor(np.ones((4, 2)))), "WRONG_SHAPE", "rows",
     "shape [4, 2] given, [N, 3] expected: wine takes 3 features (alpha, beta, gamma)"),
    ("no rows", pb.LogProbRequest(model="wine", rows=tensor(np.ones((0, 3)))), "NO_ROWS", "rows", "has no row"),
    ("no tensor", pb.LogProbRequest(model="wine"), "MALFORMED_TENSOR", "rows.data_type", "DATA_TYPE_UNSPECIFIED given"),
    ("wrong dtype", pb.LogProbRequest(model="wine", rows=tensor(np.ones((1, 3)), data_type=9)), "MALFORMED_TENSOR",
     "rows.data_type", "9 given; DATA_TYPE_FLOAT32 or DATA_TYPE_FLOAT64 expected"),
    ("truncated", pb.LogProbRequest(model="wine", rows=tensor(np.ones((2, 3)), data=b"12345678901")),
     "MALFORMED_TENSOR", "rows.data", "has 11 bytes; 24 expected for shape [2, 3] of float32"),
    ("superfluous context", pb.LogProbRequest(model="wine", rows=tensor(np.ones((1, 3))), context=tensor([[1.0]])),
     "UNEXPECTED_CONTEXT", "context", "given, but wine takes none"),
    ("missing context", pb.LogProbRequest(model="pair", rows=tensor(np.ones((1, 3)))), "MISSING_CONTEXT", "context",
     "missing; pair takes one (left, right)"),
    ("context for other rows",
     pb.LogProbRequest(model="pair", rows=tensor(np.ones((5, 3))), context=tensor(np.ones((2, 2)))),
     "WRONG_SHAPE", "context", "has 2 rows; 5 expected, or 1 to be shared by all"),
    ("count 0", pb.SampleRequest(model="wine"), "INVALID_COUNT", "count", "0 given; 1 to 1000000 expected"),
    ("count below 0", pb.SampleRequest(model="wine", count=-1), "INVALID_COUNT", "count", "-1 given"),
    ("count of 10^12", pb.SampleRequest(model="wine", count=10**12), "INVALID_COUNT", "count",
     "1000000000000 given; 1 to 1000000 expected in one request of wine: draw more with several requests"),
    ("start below 0", pb.SampleRequest(model="wine", count=1, start=-1), "INVALID_DRAW", "start", "-1 given"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "reason", "field", "text"), [case[1:] for case in GRPC_CASES], ids=[case[0] for case in GRPC_CASES]
)
def test_grpc_refuses_with_a_field_violation(stub: Any, request_: Any, reason: str, field: str, text: str) -> None:
    method = stub.Sample if isinstance(request_, pb.SampleRequest) else stub.LogProb
    with pytest.raises(grpc.RpcError) as raised:
        method(request_, timeout=10)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details(raised.value)
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (reason, "density.v1")
    violations = {violation.field: violation.description for violation in found["BadRequest"].field_violations}
    assert text in violations[field]
    assert text in raised.value.details()


@pytest.mark.parametrize(
    ("request_", "resource", "text"),
    [
        (pb.LogProbRequest(model="beer"), "models/beer", "no model 'beer'; loaded: pair, wine"),
        (pb.LogProbRequest(model="wine", version="9"), "models/wine/versions/9", "no version '9' of wine is loaded"),
        (pb.LogProbRequest(model="wine", version="01"), "models/wine/versions/01", "loaded: 2, 1"),
        (pb.LogProbRequest(), "models/", "no model named in the request"),
    ],
)
def test_grpc_does_not_find(stub: Any, request_: pb.LogProbRequest, resource: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.LogProb(request_, timeout=10)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    found = details(raised.value)
    assert found["ResourceInfo"].resource_name == resource
    assert text in raised.value.details()


def test_a_grpc_message_over_the_limit_is_refused(stub: Any) -> None:
    rows = tensor(np.ones((100_000, 3)))
    with pytest.raises(grpc.RpcError) as raised:
        stub.LogProb(pb.LogProbRequest(model="wine", rows=rows), timeout=10)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in raised.value.details()


def test_bytes_that_are_no_message_are_refused(wine: Running) -> None:
    with grpc.insecure_channel(wine.grpc) as channel:
        call = channel.unary_unary("/density.v1.DensityService/LogProb")
        with pytest.raises(grpc.RpcError):
            call(b"\xff\xff\xff\xff", timeout=10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_grpc_answers_the_good_rows_beside_a_bad_one(stub: Any, value: float) -> None:
    rows = np.ones((3, 3))
    rows[1, 2] = value
    answer = stub.LogProb(pb.LogProbRequest(model="wine", rows=tensor(rows)), timeout=10)
    log_prob = np.frombuffer(answer.log_prob.data, "<f4")
    assert np.isnan(log_prob).tolist() == [False, True, False]
    (error,) = answer.row_errors
    assert (error.row, error.error.code) == (1, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert error.error.message == f"gamma (column 2 of rows) is {value}; every value must be finite"


def test_rows_that_are_all_bad_are_each_answered(stub: Any) -> None:
    answer = stub.LogProb(pb.LogProbRequest(model="wine", rows=tensor(np.full((4, 3), np.nan))), timeout=10)
    assert np.isnan(np.frombuffer(answer.log_prob.data, "<f4")).all()
    assert [error.row for error in answer.row_errors] == [0, 1, 2, 3]


def test_a_bad_context_is_a_bad_row(stub: Any) -> None:
    context = np.ones((2, 2))
    context[0, 1] = np.nan
    rows = tensor(np.ones((2, 3)))
    answer = stub.LogProb(pb.LogProbRequest(model="pair", rows=rows, context=tensor(context)), timeout=10)
    assert [error.error.message for error in answer.row_errors] == [
        "right (column 1 of context) is nan; every value must be finite"
    ]


JSON = "application/json"
HTTP_CASES = [
    ("malformed JSON", "wine:logProb", JSON, b'{"rows": [[1, 2', 400, "MALFORMED_JSON", "body", "line 1 column"),
    ("JSON that is no object", "wine:logProb", JSON, b"[1]", 400, "MALFORMED_JSON", "body", "is JSON but no object"),
    ("bare NaN", "wine:logProb", JSON, b'{"rows": [[NaN, 1, 2]]}', 400, "MALFORMED_JSON", "body",
     'NaN is written as the string "NaN"'),
    ("misspelt key", "wine:logProb", JSON, b'{"row": []}', 400, "UNKNOWN_FIELD", "row",
     "unknown; expected context, rows"),
    ("no key", "wine:logProb", JSON, b"{}", 400, "MISSING_FIELD", "rows", "missing"),
    ("no rows", "wine:logProb", JSON, b'{"rows": []}', 400, "NO_ROWS", "rows", "at least one expected"),
    ("rows that are no list", "wine:logProb", JSON, b'{"rows": 3}', 400, "WRONG_TYPE", "rows", "3 given; a list"),
    ("one row not in a list", "wine:logProb", JSON, b'{"rows": [1, 2, 3]}', 400, "WRONG_SHAPE", "rows",
     "shape [3] given, [N, 3] expected"),
    ("wrong width", "wine:logProb", JSON, b'{"rows": [[1, 2]]}', 400, "WRONG_SHAPE", "rows",
     "shape [1, 2] given, [N, 3] expected"),
    ("one row of wrong width", "wine:logProb", JSON, b'{"rows": [[1, 2, 3], [1, 2]]}', 400, "WRONG_SHAPE", "rows[1]",
     "2 values given; 3 expected"),
    ("text", "wine:logProb", JSON, b'{"rows": [[1, 2, "red"]]}', 400, "NOT_A_NUMBER", "rows[0][2]",
     '"red" given; a number expected'),
    ("truth among numbers", "wine:logProb", JSON,
     b'{"rows": [[1, 2, 3], [1.5, 2, true]]}', 400, "NOT_A_NUMBER", "rows[1][2]",
     "true given"),
    ("truth", "wine:logProb", JSON, b'{"rows": [[true, false, true]]}', 400, "NOT_A_NUMBER", "rows[0][0]",
     "true given"),
    ("empty body", "wine:logProb", JSON, b"", 400, "EMPTY_BODY", "body", "is empty"),
    ("missing column", "wine:logProb", "text/csv", b"alpha,gamma\n1,2\n", 400, "MISSING_COLUMN", "beta",
     "column missing; the table has alpha, gamma"),
    ("column twice", "wine:logProb", "text/csv", b"alpha,beta,gamma,beta\n1,2,3,4\n", 400, "MISSING_COLUMN", "beta",
     "there twice in the header"),
    ("headerless of wrong width", "wine:logProb", "text/csv", b"1,2\n", 400, "WRONG_SHAPE", "body",
     "has no header and 2 columns; 3 expected: alpha, beta, gamma"),
    ("header alone", "wine:logProb", "text/csv", b"alpha,beta,gamma\n", 400, "NO_ROWS", "rows", "no row below"),
    ("blank CSV", "wine:logProb", "text/csv", b"\n\n", 400, "NO_ROWS", "body", "is empty"),
    ("CSV not in UTF-8", "wine:logProb", "text/csv", b"\xff\xfe\n1\n", 400, "MALFORMED_CSV", "body", "UTF-8"),
    ("truncated octets", "wine:logProb", "application/octet-stream", b"\0" * 25, 400, "TRUNCATED", "body",
     "25 bytes given, 2 rows and 1 bytes over; a row of wine is 3 little-endian float32, 12 bytes"),
    ("unknown type", "wine:logProb", "image/png", b"x", 415, "UNSUPPORTED_CONTENT_TYPE", "Content-Type",
     "image/png given; expected one of application/json, text/csv, application/x-ndjson"),
    ("curl's default type", "wine:logProb", "application/x-www-form-urlencoded", b"{}", 415, "UNSUPPORTED_CONTENT_TYPE",
     "Content-Type", "with curl, add -H 'Content-Type: application/json'"),
    ("body over the limit", "wine:logProb", JSON, b" " * (1024 * 1024 + 1), 413, "REQUEST_TOO_LARGE", "body",
     "1048577 bytes announced; at most 1048576 in one request (the setting max_request_bytes)"),
    ("100 MB", "wine:logProb", JSON, b" " * 100_000_000, 413, "REQUEST_TOO_LARGE", "body",
     "100000000 bytes announced"),
    ("count 0", "wine:sample", JSON, b'{"count": 0}', 400, "INVALID_COUNT", "count", "0 given; 1 to"),
    ("count of 10^12", "wine:sample", JSON, b'{"count": 1000000000000}', 400, "INVALID_COUNT", "count",
     "1000000000000 given; 1 to 1000000 expected in one request of wine"),
    ("count of 10^30", "wine:sample", JSON, b'{"count": 1e30}', 400, "INVALID_COUNT", "count", "given; 1 to 1000000"),
    ("no count", "wine:sample", JSON, b"{}", 400, "NOT_A_NUMBER", "count", "missing; a whole number expected"),
    ("half a sample", "wine:sample", JSON, b'{"count": 1.5}', 400, "NOT_A_NUMBER", "count", "1.5 given"),
    ("seed below 0", "wine:sample", JSON, b'{"count": 1, "seed": -1}', 400, "INVALID_DRAW", "seed", "-1 given"),
    ("sample in CSV", "wine:sample", "text/csv", b"count\n1\n", 400, "UNSUPPORTED_CONTENT_TYPE", "Content-Type",
     "send application/json"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status", "reason", "field", "text"),
    [case[1:] for case in HTTP_CASES],
    ids=[case[0] for case in HTTP_CASES],
)
def test_http_refuses_with_a_field_violation(
    wine: Running, path: str, content_type: str, body: bytes, status: int, reason: str, field: str, text: str
) -> None:
    answer = plain_http.post(f"{wine.http}/v1/models/{path}", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (status, "INVALID_ARGUMENT")
    info, bad = error["details"]
    assert info == {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "density.v1"}
    violations = {violation["field"]: violation["description"] for violation in bad["fieldViolations"]}
    assert text in violations[field]
    assert text in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v1/models/beer:logProb", 404, "no model 'beer'"),
        ("POST", "/v1/models/wine/versions/9:logProb", 404, "no version '9' of wine"),
        ("GET", "/v1/models/beer", 404, "no model 'beer'"),
        ("GET", "/v1/models/wine:logProb", 405, "GET given; /v1/models/wine:logProb takes POST"),
        ("POST", "/v1/models/wine:train", 404, "nothing at /v1/models/wine:train"),
        ("GET", "/nothing", 404, "nothing at /nothing; /docs shows what there is"),
    ],
)
def test_http_addresses_that_are_not_there(wine: Running, method: str, path: str, status: int, text: str) -> None:
    answer = plain_http.request(method, wine.http + path, headers={"Content-Type": JSON})
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v2/models/wine/versions/:1/infer", 404, "nothing at /v2/models/wine/versions/:1/infer"),
        ("GET", "/v2/models/wine/infer", 405, "GET given; /v2/models/wine/infer takes POST"),
    ],
)
def test_open_inference_says_so_in_its_own_form(wine: Running, method: str, path: str, status: int, text: str) -> None:
    answer = plain_http.request(method, wine.http + path)
    assert answer.status_code == status
    assert text in answer.json()["error"]


def test_a_body_without_a_length_is_refused_when_it_gets_too_long(wine: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    answer = plain_http.post(
        f"{wine.http}/v1/models/wine:logProb", content=endless(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert "and more given; at most 1048576" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Accept": "image/png"}, 406, "image/png given; answers are written as application/json, text/csv"),
        ({"Content-Encoding": "br"}, 415, "br given; bodies are read as they are"),
        ({"Request-Timeout": "soon"}, 400, "'soon' given; a positive number of seconds expected"),
    ],
)
def test_headers_that_cannot_be_met(wine: Running, headers: dict[str, str], status: int, text: str) -> None:
    answer = plain_http.post(
        f"{wine.http}/v1/models/wine:logProb",
        content=b'{"rows": [[1, 2, 3]]}',
        headers={"Content-Type": JSON} | headers,
    )
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]


def test_malformed_csv_rows_are_answered_alone(wine: Running) -> None:
    table = b'alpha,beta,gamma\n1,2,3\n1,2\n1,red,3\n1,,3\n"1,2,3\n\n1,2,nan\n1_0,2,3\n\xff,2,3\n4,5,6\n'
    answer = plain_http.post(f"{wine.http}/v1/models/wine:logProb", content=table, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200
    header, *lines = answer.text.splitlines()
    assert header == "log_prob,error"
    assert len(lines) == 9
    assert not lines[0].startswith("NaN")
    assert not lines[8].startswith("NaN")
    assert lines[1:8] == [
        "NaN,line 3: 2 columns given; 3 expected",
        "NaN,line 4: beta is 'red'; a number expected",
        "NaN,line 5: beta is empty; a number expected",
        'NaN,"line 6: 1 columns given; 3 expected; a quote is open at its end, and a row is one line"',
        "NaN,gamma (column 2 of rows) is nan; every value must be finite",
        "NaN,line 9: alpha is '1_0'; a number expected",
        "NaN,line 10: alpha is '\ufffd'; a number expected",
    ]


def test_json_rows_that_are_not_finite_are_answered_alone(wine: Running) -> None:
    body = {"rows": [["NaN", 1, 2], [1, 2, 3], [1, None, 3], [1, 2, "-Infinity"]]}
    answer = plain_http.post(f"{wine.http}/v1/models/wine:logProb", json=body).json()
    assert [value if isinstance(value, str) else "number" for value in answer["log_prob"]] == [
        "NaN",
        "number",
        "NaN",
        "NaN",
    ]
    assert [(error["row"], error["reason"]) for error in answer["row_errors"]] == [
        (0, "NON_FINITE_VALUE"),
        (2, "NON_FINITE_VALUE"),
        (3, "NON_FINITE_VALUE"),
    ]
