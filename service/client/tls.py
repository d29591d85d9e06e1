"""How a client knows the service it speaks to, and proves who it is itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc


@dataclass(frozen=True, kw_only=True)
class TLS:
    """Encrypted connections.

    Args:
        ca: PEM file of the authorities that the service's certificate must come from; without, the usual ones.
        certificate: PEM file of the client's own certificate, where the service asks for one (mutual TLS).
        key: PEM file of the certificate's private key.
        server_name: the name in the service's certificate, where it is not the one that it is called by.

    Example:
        >>> TLS(certificate="client.pem")
        Traceback (most recent call last):
        ValueError: a certificate and no key given; both are needed, or none
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise ValueError(f"a {given} and no {missing} given; both are needed, or none")

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC takes.

        Raises:
            OSError: a file cannot be read.
        """
        ca, key, certificate = (
            Path(path).read_bytes() if path is not None else None for path in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> list[tuple[str, Any]]:
        """What a channel needs besides."""
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]


def channel_security(
    tls: TLS | bool, credentials: grpc.ChannelCredentials | None
) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, Any]]]:
    """Credentials, or None for plain text, and further options of a channel.

    Raises:
        ValueError: both kinds are given.
    """
    if not tls:
        return credentials, []
    if credentials is not None:
        raise ValueError("tls and credentials given; credentials say how to encrypt already: give one of them")
    chosen = TLS() if tls is True else tls
    return chosen.credentials(), chosen.options()
