"""What ``flowmodel serve`` writes at its most talkative, searched for everything that is secret."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest
import trustme
from conftest import publish

from service.client import TLS, DensityClient, PermissionDeniedError, UnauthenticatedError
from service.security.tokens import add_token

ROWS = np.zeros((2, 3), np.float32)
PROGRAM = [sys.executable, "-c", "from service.command import serve; serve()"]


def torchserve_keys(process: subprocess.Popen[str]) -> list[str]:
    """The keys of the TorchServe that a service has started."""
    (java,) = (child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "java")
    keys = json.loads((Path(java.cwd()) / "key_file.json").read_text())
    return [kind["key"] for kind in keys.values()]


def call_in_every_way(address: str, target: str, tokens: list[str | None], ca: Path) -> None:
    """Calls that succeed and calls that are refused, over both ports."""
    context = ssl.create_default_context(cafile=str(ca))
    for token in tokens:
        headers = (
            [{}] if token is None else [{"Authorization": f"{scheme}{token}"} for scheme in ("Bearer ", "Basic ", "")]
        )
        with httpx.Client(verify=context) as client:
            for header in headers:
                client.post(f"{address}/v1/models/wine:logProb", json={"rows": ROWS.tolist()}, headers=header)
                client.post(f"{address}/v1/models/wine:logProb", content=b"\xff", headers=header)
                client.get(f"{address}/v1/models/none?access_token={token}", headers=header)
        with DensityClient(target, token=token, tls=TLS(ca=ca)) as client:
            with contextlib.suppress(UnauthenticatedError, PermissionDeniedError):
                client.log_prob("wine", ROWS)
            with pytest.raises((UnauthenticatedError, PermissionDeniedError)):
                client.sample("wine", 1)
        credentials = TLS(ca=ca).credentials()
        with grpc.secure_channel(target, credentials) as channel:
            metadata = [("authorization", f"Bearer {token}")]
            channel.unary_unary("/density.v1.DensityService/LogProb").future(
                b"\xff", metadata=metadata, timeout=20
            ).code()


def test_no_secret_is_ever_written(tmp_path: Path) -> None:
    store, tokens, ca = tmp_path / "store", tmp_path / "tokens", tmp_path / "ca.pem"
    publish(store, "wine")
    secrets = [add_token(tokens, name, [scope]) for name, scope in (("one", "score"), ("two", "admin"))]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())
    arguments = ["--store", str(store), "--token-file", str(tokens), "--tls-certificate", str(certificate)]
    arguments += [
        "--tls-key",
        str(key),
        "--log-level",
        "debug",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--threads",
        "1",
    ]
    written, lines, ready = [], [], threading.Event()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("FLOWMODEL_")},
    )

    def listen() -> None:
        for line in process.stdout or ():
            written.append(line)
            if line.startswith("Ready:"):
                lines.append(line)
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert ready.wait(240)
        assert lines, "".join(written)
        words = [word.rstrip(",") for word in lines[0].split()]
        target = words[words.index("gRPC") + 1].replace("127.0.0.1", "localhost")
        address = words[words.index("HTTP") + 1]
        wrong = "flowmodel_wrong-but-still-nobody-elses-business"
        keys = torchserve_keys(process)
        call_in_every_way(address, target, [*secrets, wrong, None], ca)
        # Mistakes of an administrator: a token where its hash belongs, half a key.
        with tokens.open("a") as file:
            file.write(f"three score {wrong}\n")
        key.write_text("\n".join(key.read_text().splitlines()[:3]))
        call_in_every_way(address, target, [*secrets, wrong], ca)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        listener.join(20)
        process.stdout.close()
    text = "".join(written)
    assert "the tokens read last stay in force" in text
    assert "the certificate read last stays in force" in text
    key_lines = issued.private_key_pem.bytes().decode().splitlines()[1:-1]
    for secret in [*secrets, *(secret.removeprefix("flowmodel_") for secret in secrets), wrong, *keys, *key_lines]:
        assert secret not in text
    # The printed call to paste names the header, with a variable for the token.
    logged = "".join(line for line in written if not line.startswith("  curl ")).lower()
    assert "authorization" not in logged
    assert "bearer" not in logged
