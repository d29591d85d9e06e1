"""Ports that several processes listen on."""

from __future__ import annotations

import contextlib
import socket
from typing import Self

from service.errors import PortTakenError
from service.settings import Settings


class SharedPorts:
    """The service's ports, chosen once and kept for it while any of its processes may be away.

    Kept by sockets that are bound and do not listen: they get no connections, and no other user can take the port.

    Args:
        settings: which ports; 0 takes a free one.

    Raises:
        PortTakenError: another program has a port, or the address is not one of this machine.
    """

    def __init__(self, settings: Settings) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.grpc = self._keep("gRPC", settings.host, settings.grpc_port, "--grpc-port")
            self.http = self._keep("HTTP", settings.host, settings.http_port, "--http-port")
            self.admin = (
                None
                if settings.admin_port is None
                else self._keep("HTTP", settings.admin_host, settings.admin_port, "--admin-port")
            )
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _keep(self, protocol: str, host: str, port: int, option: str) -> int:
        try:
            if port:
                # Another service that shares its ports would otherwise share them with this one unawares.
                _bound(host, port, shared=False).close()
            kept = self._stack.enter_context(_bound(host, port, shared=True))
        except OSError as error:
            raise PortTakenError(
                f"cannot listen for {protocol} on {host}:{port}: {error.strerror}; "
                f"choose another one with {option}, or 0 for a free one"
            ) from None
        return int(kept.getsockname()[1])


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # Without this, a port stays taken for a minute after a service on it has ended.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, port))
    except OSError:
        one.close()
        raise
    return one
