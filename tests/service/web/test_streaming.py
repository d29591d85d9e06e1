"""Bodies and answers larger than a message: streamed both ways, cut off, deflated."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import httpx
import numpy as np
import plain_http
import pytest
from conftest import Loop, Running, Start, running
from gates import engine_held, in_background, wait_for_call, wait_until

from service.engines.engine import EngineError
from service.streams import CHUNK_BYTES
from service.web.formats import FORMATS

sys.path.insert(0, str(Path(__file__).parent))

from bodies import ARROW, BINARY, CSV, FEATURES, JSON, NDJSON, NPY, arrow, read_samples, read_scores, write_rows

LIMIT = 20_000
"""A longer body is streamed by the services here."""
ROWS = np.random.default_rng(3).standard_normal((10_000, 3)).astype(np.float32)
STREAMED_IN = [CSV, NDJSON, BINARY, NPY, ARROW]
STREAMED_OUT = [CSV, NDJSON, BINARY, ARROW]


@pytest.fixture(scope="module")
def streaming(loop: Loop, published: Path) -> Iterator[Running]:
    """A service that streams what is longer than ``LIMIT``; ``wine`` answers the same whole."""
    with running(loop, published, max_request_bytes=LIMIT) as service:
        yield service


@pytest.fixture(scope="module")
def body_of() -> Any:
    bodies = {content_type: write_rows(content_type, ROWS) for content_type in STREAMED_IN if content_type != ARROW}
    bodies[ARROW] = arrow(dict(zip(FEATURES, ROWS.T, strict=True)), batch_rows=500)
    return bodies.__getitem__


def post(service: Running, content: Any, content_type: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{service.http}/v1/models/wine:logProb"
    return plain_http.post(url, content=content, headers={"Content-Type": content_type} | named, timeout=60)


class Duplex:
    """A client that sends and reads when the test says so."""

    def __init__(self, service: Running, content_type: str, accept: str) -> None:
        host, port = service.http.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._http = h11.Connection(h11.CLIENT)
        headers = {"Host": host, "Content-Type": content_type, "Accept": accept, "Transfer-Encoding": "chunked"}
        self._send(h11.Request(method="POST", target="/v1/models/wine:logProb", headers=list(headers.items())))

    def _send(self, event: Any) -> None:
        self._socket.sendall(self._http.send(event))

    def send(self, data: bytes) -> None:
        self._send(h11.Data(data=data))

    def end(self) -> None:
        self._send(h11.EndOfMessage())

    def next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._socket.recv(65536))
        return event

    def rest(self) -> bytes:
        """The body to its end."""
        parts = []
        while not isinstance(event := self.next(), h11.EndOfMessage):
            parts.append(bytes(event.data))
        return b"".join(parts)

    def until_cut_off(self) -> bytes:
        """The body as far as it comes; it must not come to its end."""
        parts = []
        try:
            while True:
                event = self.next()
                assert isinstance(event, h11.Data), event
                parts.append(bytes(event.data))
        except h11.RemoteProtocolError:
            return b"".join(parts)

    def hang_up(self) -> None:
        """End the connection, and whatever another thread sends over it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("asked_for", STREAMED_OUT)
@pytest.mark.parametrize("given", STREAMED_IN)
def test_a_streamed_answer_is_the_whole_one(
    streaming: Running, wine: Running, body_of: Any, given: str, asked_for: str
) -> None:
    streamed = post(streaming, body_of(given), given, Accept=asked_for)
    assert streamed.status_code == 200
    assert "density-row-errors" not in streamed.headers
    assert streamed.headers["density-version"] == "2"
    expected = post(wine, body_of(given), given, Accept=asked_for)
    assert expected.headers["density-row-errors"] == "0"
    np.testing.assert_array_equal(
        read_scores(asked_for, streamed.content).log_prob, read_scores(asked_for, expected.content).log_prob
    )
    if asked_for != ARROW:
        assert streamed.content == expected.content


@pytest.mark.parametrize(("given", "asked_for"), [(JSON, CSV), (CSV, JSON), (CSV, NPY)])
def test_what_cannot_be_streamed_is_refused_with_advice(streaming: Running, given: str, asked_for: str) -> None:
    answer = post(streaming, write_rows(given, ROWS), given, Accept=asked_for)
    assert answer.status_code == 413
    assert "CSV, NDJSON, float32 or Arrow" in answer.json()["error"]["message"]


def test_answers_come_while_the_body_is_sent(start: Start, published: Path) -> None:
    service = start(published)
    lines = b"1,2,3\n" * (CHUNK_BYTES // 6)
    client = Duplex(service, CSV, CSV)
    client.send(b"alpha,beta,gamma\n" + lines)
    client.send(lines)
    assert client.next().status_code == 200
    head = bytes(client.next().data)
    assert head.startswith(b"log_prob,error\n")
    client.send(b"4,5,6\n")
    client.end()
    answered = (head + client.rest()).splitlines()
    assert len(answered) == 1 + 2 * (CHUNK_BYTES // 6) + 1
    assert answered[-1] != answered[-2]
    client.close()


def test_a_short_chunked_body_is_answered_whole(wine: Running) -> None:
    answer = post(wine, iter([b"alpha,beta,gamma\n", b"1,2,3\n"]), CSV)
    assert answer.headers["density-row-errors"] == "0"
    refused = post(wine, iter([b"alpha,beta\n", b"1,2\n"]), CSV)
    assert refused.status_code == 400


def test_bad_rows_of_a_stream_keep_their_places(start: Start, published: Path) -> None:
    service = start(published, max_request_bytes=LIMIT, max_rows_per_request=1000)
    lines = ["alpha,beta,gamma", *(f"{row}e-3,0,0" for row in range(9000))]
    for row, text in ((0, "nan,0,0"), (4321, "1,2"), (8999, "1,x,3")):
        lines[1 + row] = text
    read = read_scores(CSV, post(service, "\n".join(lines).encode(), CSV).content)
    assert np.flatnonzero(np.isnan(read.log_prob)).tolist() == [0, 4321, 8999]
    assert "line 4323: 2 columns given; 3 expected" in read.errors[4321]
    assert "line 9001: beta is 'x'" in read.errors[8999]


@pytest.mark.parametrize(
    ("given", "content", "reason"),
    [
        (CSV, b"alpha,beta\n" + b"1,2\n" * 9000, "MISSING_COLUMN"),
        (NPY, write_rows(NPY, np.ones((9000, 2))), "WRONG_SHAPE"),
        (ARROW, b"no arrow" * 4000, "MALFORMED_ARROW"),
        (NDJSON, b"\n" * 30_000, "NO_ROWS"),
    ],
)
def test_what_is_wrong_before_the_first_part_is_refused_as_usual(
    streaming: Running, given: str, content: bytes, reason: str
) -> None:
    answer = post(streaming, content, given, Accept=CSV)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"][0]["reason"] == reason


def cut_off(service: Running, content: bytes, content_type: str, accept: str) -> bytes:
    """What arrives of an answer that does not end as it should."""
    parts = []
    url = f"{service.http}/v1/models/wine:logProb"
    headers = {"Content-Type": content_type, "Accept": accept, "Accept-Encoding": "identity"}

    def read() -> None:
        with httpx.stream("POST", url, content=content, headers=headers, timeout=20) as answer:
            assert answer.status_code == 200
            parts.extend(answer.iter_raw())

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        read()
    return b"".join(parts)


@pytest.mark.parametrize("asked_for", STREAMED_OUT)
def test_a_failure_half_way_ends_the_transfer_without_its_end(start: Start, published: Path, asked_for: str) -> None:
    service = start(published, faults=True, max_request_bytes=LIMIT, max_rows_per_request=1000)

    def poisoned(given: np.ndarray) -> None:
        if (given == 666).any():
            raise EngineError("poisoned")

    service.service.engine.check = poisoned
    rows = ROWS[:9000].copy()
    rows[5500] = 666
    arrived = cut_off(service, write_rows(CSV, rows), CSV, asked_for)
    if asked_for == CSV:
        _, *lines = arrived.decode().splitlines()
        assert lines[-1].startswith(",the answer ends here: INTERNAL MODEL_FAILED: the model failed on this request")
        assert len([line for line in lines[:-1] if line]) == 5000
    elif asked_for == NDJSON:
        *answers, last = arrived.splitlines()
        assert len(answers) == 5000
        assert b'"reason":"MODEL_FAILED"' in last
    elif asked_for == BINARY:
        assert len(arrived) == 4 * 5000
    labels = {"method": "LogProb", "code": "INTERNAL", "model": "wine", "version": "2"}
    assert service.metric("density_requests_total", **labels) == 1


def test_a_body_cut_off_in_a_row_is_a_failure_half_way(streaming: Running) -> None:
    content = write_rows(BINARY, np.ones((300_000, 3), np.float32))[:-1]
    arrived = cut_off(streaming, content, BINARY, NDJSON)
    assert b'"reason":"TRUNCATED"' in arrived.splitlines()[-1]


def test_a_service_that_stops_ends_its_answers_with_a_record(start: Start, published: Path) -> None:
    service = start(published)
    client = Duplex(service, CSV, CSV)
    client.send(b"1,2,3\n" * (CHUNK_BYTES // 3))
    assert client.next().status_code == 200
    stopping = in_background(lambda: service.run(service.service.stop()))
    arrived = client.until_cut_off()
    stopping.result(20)
    client.close()
    assert b"the answer ends here: UNAVAILABLE DRAINING: the service is stopping" in arrived


def test_a_client_that_stands_still_is_cut_off(start: Start, published: Path) -> None:
    service = start(published, stream_idle_seconds=0.3)
    client = Duplex(service, CSV, CSV)
    client.send(b"1,2,3\n" * (CHUNK_BYTES // 3))
    assert client.next().status_code == 200
    arrived = client.until_cut_off()
    client.close()
    assert b"DEADLINE_EXCEEDED STREAM_IDLE" in arrived


def test_a_client_that_vanishes_half_way_holds_nothing(start: Start, published: Path) -> None:
    service = start(published, faults=True)
    client = Duplex(service, CSV, CSV)
    with engine_held(service):
        client.send(b"1,2,3\n" * (CHUNK_BYTES // 3))
        wait_for_call(service)
        client.close()
    wait_until(service, lambda: service.service.gateway._active == 0)
    labels = {"method": "LogProb", "code": "CANCELLED", "model": "wine", "version": "2"}
    wait_until(service, lambda: service.metric("density_requests_total", **labels) == 1)


@pytest.mark.parametrize("asked_for", STREAMED_OUT)
def test_samples_beyond_one_message_are_streamed(start: Start, published: Path, asked_for: str) -> None:
    service, whole = start(published, max_samples_per_request=3000), start(published)
    order = {"count": 10_000, "seed": 6, "start": 5, "with_log_prob": True}
    answers = [
        plain_http.post(f"{server.http}/v1/models/wine:sample", json=order, headers={"Accept": asked_for}, timeout=20)
        for server in (service, whole)
    ]
    assert answers[0].headers["density-seed"] == "6"
    streamed, expected = (read_samples(asked_for, answer.content, 4) for answer in answers)
    assert streamed.shape == (10_000, 4)
    np.testing.assert_array_equal(streamed, expected)
    refused = plain_http.post(f"{service.http}/v1/models/wine:sample", json=order)
    assert "10000 given; 1 to 3000 expected in one request" in refused.json()["error"]["message"]


def test_a_client_that_leaves_its_samples_is_drawn_for_no_more(start: Start, published: Path) -> None:
    service = start(published)
    order = {"count": 10**8, "seed": 6}
    url = f"{service.http}/v1/models/wine:sample"
    with httpx.stream("POST", url, json=order, headers={"Accept": CSV}, timeout=20) as answer:
        assert next(answer.iter_bytes()).startswith(b"alpha,beta,gamma\n")
    wait_until(service, lambda: service.service.gateway._active == 0)


@pytest.mark.parametrize("content_type", FORMATS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_deflated_bodies(wine: Running, content_type: str, encoding: str) -> None:
    content = write_rows(content_type, ROWS[:500])
    deflated = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    answer = post(wine, deflated, content_type, Content_Encoding=encoding)
    assert answer.status_code == 200, answer.text
    assert answer.content == post(wine, content, content_type).content


@pytest.mark.parametrize("given", STREAMED_IN)
def test_a_deflated_body_is_streamed_too(streaming: Running, wine: Running, body_of: Any, given: str) -> None:
    content = body_of(given)
    # Two files one behind the other, as a parallel compressor writes them.
    deflated = gzip.compress(content[:100_000]) + gzip.compress(content[100_000:])
    answer = post(streaming, deflated, given, Content_Encoding="gzip", Accept=CSV)
    assert answer.content == post(wine, content, given, Accept=CSV).content


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (gzip.compress(b" " * 2_000_000), 413, "REQUEST_TOO_LARGE"),
        (gzip.compress(b'{"rows": [[1, 2, 3]]}')[:-9], 400, "MALFORMED_ENCODING"),
        (b'{"rows": [[1, 2, 3]]}', 400, "MALFORMED_ENCODING"),
        (gzip.compress(b""), 400, "EMPTY_BODY"),
    ],
    ids=["bomb", "truncated", "not deflated", "empty"],
)
def test_a_body_that_cannot_be_inflated_is_refused(wine: Running, content: bytes, status: int, reason: str) -> None:
    answer = post(wine, content, JSON, Content_Encoding="gzip")
    assert (answer.status_code, answer.json()["error"]["details"][0]["reason"]) == (status, reason)


def test_an_unknown_encoding_is_refused(wine: Running) -> None:
    answer = post(wine, b"x", JSON, Content_Encoding="br")
    assert answer.status_code == 415
    assert "br given; bodies are read as they are, or with gzip or deflate" in answer.json()["error"]["message"]


def test_a_streamed_bomb_is_defused(streaming: Running) -> None:
    arrived = cut_off_or_refused(streaming, gzip.compress(b"0" * 12 * 3_000_000), BINARY)
    assert b"INFLATES_TOO_FAR" in arrived


def cut_off_or_refused(service: Running, content: bytes, content_type: str) -> bytes:
    url = f"{service.http}/v1/models/wine:logProb"
    headers = {"Content-Type": content_type, "Accept": NDJSON, "Content-Encoding": "gzip"}
    parts: list[bytes] = []
    with httpx.stream("POST", url, content=content, headers=headers, timeout=20) as answer:
        try:
            parts.extend(answer.iter_bytes())
        except httpx.RemoteProtocolError:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 400
    return b"".join(parts)


@pytest.mark.parametrize("content_type", FORMATS)
def test_text_is_deflated_when_asked_for_and_numbers_are_not(wine: Running, content_type: str) -> None:
    content = write_rows(content_type, ROWS[:2000])
    plain = post(wine, content, content_type, Accept_Encoding="identity")
    asked = post(wine, content, content_type, Accept_Encoding="gzip;q=0.5, br")
    refused = post(wine, content, content_type, Accept_Encoding="gzip;q=0")
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert (asked.headers.get("content-encoding") == "gzip") == (content_type in (JSON, CSV, NDJSON))
    assert plain.content == asked.content == refused.content


def test_a_streamed_answer_is_deflated_when_asked_for(streaming: Running, body_of: Any) -> None:
    asked = post(streaming, body_of(CSV), CSV, Accept_Encoding="gzip")
    assert asked.headers["content-encoding"] == "gzip"
    assert asked.content == post(streaming, body_of(CSV), CSV, Accept_Encoding="identity").content


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("how", ["file", "pipe", "data"])
def test_curl_streams_a_file(start: Start, published: Path, tmp_path: Path, how: str) -> None:
    service = start(published, max_request_bytes=1_000_000)
    rows = np.random.default_rng(0).standard_normal((100_000, 3)).astype(np.float32)
    path = tmp_path / "rows.csv"
    path.write_bytes(write_rows(CSV, rows))
    sending = {
        "file": ["-X", "POST", "-T", str(path)],
        "pipe": ["-X", "POST", "-T", "-"],
        "data": ["--data-binary", f"@{path}"],
    }[how]
    url = f"{service.http}/v1/models/wine:logProb"
    command = ["curl", "-sSf", "-H", "Content-Type: text/csv", *sending, url]
    with path.open("rb") as file:
        run = subprocess.run(command, stdin=file, capture_output=True, check=True, timeout=60)
    answered = read_scores(CSV, run.stdout).log_prob
    sample = post(service, write_rows(CSV, rows[-100:]), CSV)
    np.testing.assert_array_equal(answered[-100:], read_scores(CSV, sample.content).log_prob)
    assert len(answered) == len(rows)


def test_a_client_that_sends_all_before_it_reads_is_answered(start: Start, published: Path) -> None:
    service = start(published)
    rows = np.tile(ROWS, (200, 1))
    client = Duplex(service, BINARY, BINARY)
    # The answer has 8 MB, more than the buffers between the two hold.
    content = write_rows(BINARY, rows)
    for offset in range(0, len(content), 1_000_000):
        client.send(content[offset : offset + 1_000_000])
    client.end()
    assert client.next().status_code == 200
    answered = read_scores(BINARY, client.rest()).log_prob
    client.close()
    assert answered.shape == (len(rows),)
    np.testing.assert_array_equal(answered[: len(ROWS)], answered[-len(ROWS) :])


def test_who_sends_without_reading_beyond_the_spool_is_cut_off(
    start: Start, published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(published, max_spool_bytes=100_000, stream_idle_seconds=0.5)
    content = write_rows(BINARY, np.tile(ROWS, (500, 1)))
    client = Duplex(service, BINARY, BINARY)

    def send_all() -> None:
        for offset in range(0, len(content), 1_000_000):
            client.send(content[offset : offset + 1_000_000])

    sending = in_background(send_all)
    try:
        wait_until(service, lambda: "was cut off: STREAM_IDLE" in caplog.text)
        wait_until(service, lambda: service.service.gateway._active == 0)
    finally:
        client.hang_up()
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        sending.result(20)
    client.close()
