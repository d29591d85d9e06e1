"""What ``flowmodel serve`` prints when it is ready: where it listens, and two calls to paste."""

from __future__ import annotations

import json
import shlex
import sys

from service.registry import ServedModel
from service.service import Ports, Service

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ready_text(service: Service, ports: Ports) -> str:
    """The ready line, and below it a ``curl`` and a gRPC call of a model that is loaded.

    Where tokens are asked for, the calls take one from the variable ``DENSITY_TOKEN``.
    """
    tls = service.settings.tls_certificate is not None
    scheme = "https" if tls else "http"
    token = service.settings.token_file is not None
    host = _host(service.settings.host)
    admin = ""
    if ports.admin is not None:
        admin = f", admin API {scheme}://{_host(service.settings.admin_host)}:{ports.admin}/docs"
    answering = [
        service.registry.default(name) or service.registry.versions(name)[0] for name in service.registry.names()
    ]
    models = ", ".join(str(served.key) for served in answering)
    served = answering[0]
    return "\n".join(
        (
            f"Ready: {models} by {service.engine.name}, gRPC {host}:{ports.grpc}, HTTP {scheme}://{host}:{ports.http}, "
            f"documentation {scheme}://{host}:{ports.http}/docs{admin}",
            f"  {curl_call(served, f'{scheme}://{host}:{ports.http}', token=token)}",
            f"  {grpc_call(served, f'{host}:{ports.grpc}', token=token, tls=tls)}",
        )
    )


def waiting_text(service: Service, ports: Ports) -> str:
    """The line that is printed while the store is empty, or holds nothing that can be served."""
    host, place = _host(service.settings.host), service.watcher.store.place
    scheme = "https" if service.settings.tls_certificate is not None else "http"
    unserved = service.registry.unserved
    why = (
        f"no version of {', '.join(unserved)} could be loaded, and the log says why; repair it, or " if unserved else ""
    )
    return (
        f"Waiting for a model in {place}: {why}publish one with `flowmodel train DATA --model NAME "
        f"--store {place}` (gRPC {host}:{ports.grpc}, HTTP {scheme}://{host}:{ports.http})"
    )


def curl_call(served: ServedModel, address: str, *, token: bool = False) -> str:
    """A shell command that scores one row over HTTP."""
    body = {"rows": [_row(served, "rows", served.signature.event_size)]}
    if served.signature.context_shape is not None:
        body["context"] = [_row(served, "context", served.signature.context_size)]
    url = f"{address}/v1/models/{served.key.name}:logProb"
    authorization = '-H "Authorization: Bearer $DENSITY_TOKEN" ' if token else ""
    return (
        f"curl {authorization}-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))} {shlex.quote(url)}"
    )


def grpc_call(served: ServedModel, target: str, *, token: bool = False, tls: bool = False) -> str:
    """A shell command that scores the same row over gRPC, with the interpreter that the service runs in."""
    arguments = [repr(served.key.name), str([_row(served, "rows", served.signature.event_size)])]
    if served.signature.context_shape is not None:
        arguments.append(str([_row(served, "context", served.signature.context_size)]))
    imports = "import os; " if token else ""
    client = repr(target) + (", token=os.environ['DENSITY_TOKEN']" if token else "") + (", tls=True" if tls else "")
    program = (
        f"{imports}from service.client import DensityClient; "
        f"print(DensityClient({client}).log_prob({', '.join(arguments)}))"
    )
    return f'{shlex.quote(sys.executable)} -c "{program}"'


def _row(served: ServedModel, part: str, size: int) -> list[float]:
    """A row that the model knows, in four digits, or zeros."""
    rows = served.manifest.self_check.get(part) or [[0.0] * size]
    return [float(f"{value:.4g}") for value in rows[0]]


def _host(host: str) -> str:
    """An address that a client on this machine can use."""
    reachable = _ANYWHERE.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable
