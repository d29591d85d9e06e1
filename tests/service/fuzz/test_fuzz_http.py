"""The HTTP port: everything that its OpenAPI document allows and much that it does not, and bytes that are no HTTP."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import numpy as np
import pytest
from bodies import write_rows
from conftest import Running
from documented import keep_to_the_document, operations
from leaks import Watch
from mutation import case_random, mutated

from service.web.formats import FORMATS
from service.web.openapi import DOCUMENT

ROWS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


BODIES = [
    (content_type, write_rows(content_type, ROWS, context))
    for content_type in FORMATS
    for context in (None, ROWS[:, :2])
]
HEADERS = (
    *(b"Accept: " + content_type.encode() for content_type in FORMATS),
    *(b"Accept: */*;q=x, text/*;q=0.5", b"Accept: image/png", b"Request-Timeout: 1e-9", b"Request-Timeout: NaN"),
    *(b"Authorization: Bearer x", b"Content-Encoding: gzip", b"X-Request-Id: " + b"x" * 500, b"Connection: close"),
)
FRAMING = (
    *(b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 7", b"Expect: 100-continue"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Upgrade: websocket", b"Host: y"),
)


OPERATIONS = operations(DOCUMENT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_document_is_kept_to(target: Running, share: Callable[[float], int], path: str, method: str) -> None:
    keep_to_the_document(target.http, path, method, share(0.01 / len(OPERATIONS)))


def request(chance: random.Random) -> tuple[bytes, bool]:
    """A request as bytes, and whether it says truly where it ends."""
    content_type, body = chance.choice(BODIES)
    if chance.random() < 0.5:
        body = mutated(chance, body)
    model = chance.choice((b"wine", b"wine", b"pair", b"none", b"%00", b"w%2e%2e", b"x" * 2000))
    action = chance.choice((b":logProb", b":logProb", b":sample", b"", b"/versions/1:logProb", b"/versions/-1"))
    if action == b":sample":
        content_type, body = "application/json", chance.choice((b'{"count": 3}', b'{"count": 1e9, "seed": -1}', body))
    method = chance.choice((b"POST", b"POST", b"POST", b"GET", b"PUT"))
    lines = [method + b" /v1/models/" + model + action + b" HTTP/1.1", b"Host: x"]
    lines += [b"Content-Type: " + content_type.encode(), b"Content-Length: %d" % len(body)]
    lines += chance.sample(HEADERS, chance.choice((0, 0, 1, 2)))
    if chance.random() < 0.8:
        return b"\r\n".join([*lines, b"", body]), True
    lines += chance.sample(FRAMING, chance.choice((0, 1, 1)))
    return mutated(chance, b"\r\n".join([*lines, b"", body])), False


def status_of(target: Running, sent: bytes, whole: bool) -> int | None:
    """The status of the answer to some bytes; None when the connection ended without one."""
    with socket.create_connection(("127.0.0.1", target.service.ports.http), timeout=60) as connection:
        try:
            connection.sendall(sent)
            if not whole:
                # Then nobody waits for a rest that does not come, and hardly anybody answers.
                connection.shutdown(socket.SHUT_WR)
            head = b""
            while len(head) < 12 and (part := connection.recv(4096)):
                head += part
        except (ConnectionResetError, BrokenPipeError):
            return None
    return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else None


def test_any_bytes_are_borne(target: Running, share: Callable[[float], int]) -> None:
    cases, found, answered = share(0.07), [], 0
    watch = Watch(cases)
    for number in range(cases):
        sent, whole = request(case_random("http", number))
        status = status_of(target, sent, whole)
        # 504 is the answer to a time limit that was sent along.
        if status is not None and status >= 500 and status != 504:
            found.append(f"case {number}: {status} to {sent!r}")
        answered += status == 200
        watch.tick()
    assert not found, "\n".join(found[:10])
    assert answered > cases // 20
    watch.check()
