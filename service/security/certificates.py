"""The certificate that both servers present, and whose client certificates they take; read again when files change."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from service.security.stamp import file_stamp
from service.settings import Settings

log = logging.getLogger(__name__)


class CertificateError(Exception):
    """A certificate, its key or the authorities of clients cannot be used."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server presents and trusts, as read at one moment.

    Attributes:
        chain: the certificate and those between it and its root, PEM.
        key: the private key of the certificate, PEM.
        client_ca: authorities whose client certificates are taken, PEM; None where clients need none.
        context: the same for Python's own TLS.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class Certificates:
    """Certificate, key and client authorities in files, which may be replaced while servers run.

    Every handshake asks for the identity, and gets a new one as soon as the files hold one; connections that exist go
    on as they are. Files that do not belong together, as for a moment when they are replaced one after the other,
    leave the identity read last in force.

    Args:
        certificate: PEM file, the server's certificate first.
        key: PEM file with its private key, not encrypted.
        client_ca: PEM file of the authorities that sign client certificates; None to ask for none.

    Raises:
        CertificateError: a file cannot be read or used, or key and certificate do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        # Handshakes of gRPC ask from threads of its own.
        self._lock = threading.Lock()
        self._stamp = self._files()
        self._identity = self._read()

    @classmethod
    def from_settings(cls, settings: Settings) -> Certificates | None:
        """What the settings name; None when they name none.

        Raises:
            CertificateError: see the class.
        """
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    @property
    def mutual(self) -> bool:
        """Whether clients must present a certificate."""
        return self._client_ca is not None

    def identity(self) -> Identity:
        """The files' present contents, or the last that could be used."""
        with self._lock:
            stamp = self._files()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._identity = self._read()
                except CertificateError as error:
                    log.error("the certificate read last stays in force: %s", error)
                else:
                    log.info("certificate read again from %s", self._certificate)
            return self._identity

    def server_context(self) -> ssl.SSLContext:
        """A context for a server that runs as long as it likes: each handshake takes the identity of its moment."""
        context = self._context()

        def take(connection: ssl.SSLObject, name: str | None, outer: ssl.SSLContext) -> None:
            connection.context = self.identity().context

        context.sni_callback = take
        return context

    def _read(self) -> Identity:
        for _ in range(2):
            before = self._files()
            context = self._context()
            chain, key = self._bytes(self._certificate), self._bytes(self._key)
            client_ca = self._bytes(self._client_ca) if self._client_ca is not None else None
            # What Python took from the files and the bytes that gRPC takes are the same only if nothing changed.
            if self._files() == before:
                return Identity(chain, key, client_ca, context)
        raise CertificateError(f"{self._certificate} and the files beside it change faster than they can be read")

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=self._refuse_password)
        except OSError as error:
            raise CertificateError(
                f"cannot use the certificate {self._certificate} with the key {self._key} (tls_certificate, tls_key): "
                f"{_why(error)}; expected PEM files that belong together"
            ) from None
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            # A session resumed would be one whose certificate is not looked at again.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
            try:
                context.load_verify_locations(self._client_ca)
            except OSError as error:
                text = f"cannot use the client authorities in {self._client_ca} (tls_client_ca): {_why(error)}"
                raise CertificateError(f"{text}; expected a PEM file of certificates") from None
        return context

    def _refuse_password(self) -> NoReturn:
        raise CertificateError(
            f"the key in {self._key} (tls_key) is encrypted, and nobody is there to be asked for its password: "
            "decrypt it with `openssl pkey`, and let the file's permissions protect it"
        )

    def _files(self) -> tuple[object, ...]:
        paths = (self._certificate, self._key, self._client_ca)
        return tuple(file_stamp(path) if path is not None else None for path in paths)

    @staticmethod
    def _bytes(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise CertificateError(f"cannot read {path}: {_why(error)}") from None


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or str(error)
