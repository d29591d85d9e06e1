"""TLS and mutual TLS with real certificates: who is refused, and files replaced under running servers."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import trustme
from conftest import Loop, Running, Start, running
from cryptography.hazmat.primitives import serialization

from service.client import TLS, AsyncDensityClient, DensityClient, UnavailableError
from service.security.certificates import CertificateError, Certificates
from service.settings import SettingsError, load_settings

ROWS = np.zeros((2, 3), np.float32)


class Files:
    """A server's files: its certificate, its key, the authorities of its clients."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, self.client_ca = (folder / name for name in ("cert.pem", "key.pem", "clients.pem"))

    def present(self, authority: trustme.CA) -> None:
        """A new certificate of this authority, the key first, as an administrator might copy them."""
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))

    def trust(self, authority: trustme.CA) -> None:
        authority.cert_pem.write_to_path(self.client_ca)

    def settings(self, *, mutual: bool = False) -> dict[str, Path]:
        given = {"tls_certificate": self.certificate, "tls_key": self.key}
        return given | ({"tls_client_ca": self.client_ca} if mutual else {})


class Member:
    """A client with a certificate of an authority, that trusts servers of another."""

    def __init__(self, folder: Path, servers: trustme.CA, own: trustme.CA | None = None) -> None:
        folder.mkdir()
        self.ca = folder / "ca.pem"
        servers.cert_pem.write_to_path(self.ca)
        self.certificate = self.key = None
        if own is not None:
            issued = own.issue_cert("client@example.org")
            self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
            issued.private_key_pem.write_to_path(self.key)
            issued.cert_chain_pems[0].write_to_path(self.certificate)

    def tls(self) -> TLS:
        return TLS(ca=self.ca, certificate=self.certificate, key=self.key)

    def grpc(self, service: Running) -> bool:
        """Whether gRPC answers."""
        target = f"localhost:{service.service.ports.grpc}"
        channel = grpc.secure_channel(target, self.tls().credentials(), [("grpc.use_local_subchannel_pool", 1)])
        with channel:
            call = channel.unary_unary("/density.v1.DensityService/ListModels").future(b"", timeout=20)
            assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
            return call.code() is grpc.StatusCode.OK

    def http(self, service: Running) -> bool:
        """Whether HTTP answers."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        try:
            return (
                httpx.get(f"https://127.0.0.1:{service.service.ports.http}/readyz", verify=context).status_code == 200
            )
        except httpx.TransportError:
            return False

    def answered(self, service: Running) -> tuple[bool, bool]:
        return self.grpc(service), self.http(service)


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def encrypted(
    loop: Loop, published: Path, authorities: tuple[trustme.CA, trustme.CA], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    files = Files(tmp_path_factory.mktemp("tls"))
    files.present(authorities[0])
    with running(loop, published, **files.settings()) as service:
        yield service


def test_only_who_knows_the_authority_speaks(
    encrypted: Running, authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path
) -> None:
    ours, theirs = authorities
    assert Member(tmp_path / "friend", ours).answered(encrypted) == (True, True)
    assert Member(tmp_path / "stranger", theirs).answered(encrypted) == (False, False)


def test_plain_text_is_not_answered(encrypted: Running) -> None:
    with grpc.insecure_channel(encrypted.grpc) as channel:
        call = channel.unary_unary("/density.v1.DensityService/ListModels").future(b"", timeout=20)
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{encrypted.http}/readyz")


def test_the_clients_take_tls(encrypted: Running, authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path) -> None:
    tls = Member(tmp_path / "friend", authorities[0]).tls()
    with DensityClient(f"localhost:{encrypted.service.ports.grpc}", tls=tls) as client:
        assert client.log_prob("wine", ROWS).shape == (2,)

    async def score(chosen: TLS | bool, target: str, timeout: float) -> np.ndarray:
        async with AsyncDensityClient(target, tls=chosen, timeout=timeout) as client:
            return await client.log_prob("wine", ROWS)

    named = TLS(ca=tls.ca, server_name="localhost")
    target = f"ipv4:127.0.0.1:{encrypted.service.ports.grpc}"
    assert asyncio.run(score(named, target, 20)).shape == (2,)
    with pytest.raises(UnavailableError):
        # The usual authorities do not know this one.
        asyncio.run(score(True, target, 20))
    with pytest.raises(ValueError, match="tls and credentials given"):
        DensityClient(target, tls=True, credentials=named.credentials())


@pytest.mark.parametrize("port", ["grpc", "http"])
@pytest.mark.parametrize(
    ("version", "spoken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(
    encrypted: Running, port: str, version: ssl.TLSVersion, spoken: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # Otherwise the client's own library would not offer an old version at all.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, version
    context.set_alpn_protocols(["h2" if port == "grpc" else "http/1.1"])
    with socket.create_connection(("127.0.0.1", getattr(encrypted.service.ports, port)), timeout=30) as connection:
        if spoken:
            with context.wrap_socket(connection) as wrapped:
                assert wrapped.version() == version.name.replace("_", ".")
        else:
            with pytest.raises(OSError, match=r"EOF|alert|protocol"):
                context.wrap_socket(connection)


def test_mutual_tls_takes_only_certificates_of_its_authority(
    start: Start, published: Path, files: Files, authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path
) -> None:
    ours, theirs = authorities
    files.present(ours)
    files.trust(ours)
    service = start(published, **files.settings(mutual=True))
    assert Member(tmp_path / "member", ours, ours).answered(service) == (True, True)
    assert Member(tmp_path / "bare", ours).answered(service) == (False, False)
    assert Member(tmp_path / "stranger", ours, theirs).answered(service) == (False, False)


def test_a_new_certificate_is_presented_without_a_restart(
    start: Start, published: Path, files: Files, authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path
) -> None:
    before, after = authorities
    files.present(before)
    service = start(published, **files.settings())
    old, new = Member(tmp_path / "old", before), Member(tmp_path / "new", after)
    with DensityClient(f"localhost:{service.service.ports.grpc}", tls=old.tls()) as client:
        assert client.log_prob("wine", ROWS).shape == (2,)
        files.present(after)
        assert new.answered(service) == (True, True)
        assert old.answered(service) == (False, False)
        # A connection that exists goes on.
        assert client.log_prob("wine", ROWS).shape == (2,)


def test_other_client_authorities_count_without_a_restart(
    start: Start, published: Path, files: Files, authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path
) -> None:
    before, after = authorities
    files.present(before)
    files.trust(before)
    service = start(published, **files.settings(mutual=True))
    first, second = Member(tmp_path / "1", before, before), Member(tmp_path / "2", before, after)
    assert (first.answered(service), second.answered(service)) == ((True, True), (False, False))
    files.trust(after)
    assert (first.answered(service), second.answered(service)) == ((False, False), (True, True))


def test_files_that_do_not_belong_together_change_nothing(
    start: Start,
    published: Path,
    files: Files,
    authorities: tuple[trustme.CA, trustme.CA],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, after = authorities
    files.present(before)
    service = start(published, **files.settings())
    old, new = Member(tmp_path / "old", before), Member(tmp_path / "new", after)
    fresh = Files(tmp_path / "old")
    fresh.present(after)
    with caplog.at_level(logging.INFO, "service.security"):
        files.key.write_bytes(fresh.key.read_bytes())
        assert old.answered(service) == (True, True)
        assert "the certificate read last stays in force: cannot use the certificate" in caplog.text
        files.certificate.write_bytes(fresh.certificate.read_bytes())
        assert new.answered(service) == (True, True)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "PRIVATE KEY" not in caplog.text


def test_files_that_cannot_be_used_are_refused_by_their_setting(files: Files, tmp_path: Path) -> None:
    authority = trustme.CA()
    with pytest.raises(CertificateError, match=r"tls_certificate, tls_key\): No such file"):
        Certificates(files.certificate, files.key)
    files.present(authority)
    other = Files(tmp_path / "old")
    (tmp_path / "old").mkdir()
    other.present(authority)
    with pytest.raises(CertificateError, match="key values mismatch; expected PEM files that belong together"):
        Certificates(files.certificate, other.key)
    files.client_ca.write_text("nothing")
    with pytest.raises(
        CertificateError, match=r"cannot use the client authorities in .*tls_client_ca\): no certificate"
    ):
        Certificates(files.certificate, files.key, files.client_ca)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"password")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(CertificateError, match=r"tls_key\) is encrypted, .* `openssl pkey`"):
        Certificates(files.certificate, files.key)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls_certificate": "c"}, "tls_key: tls_key is missing; TLS needs tls_certificate and tls_key"),
        ({"tls_key": "k"}, "--tls-key: tls_certificate is missing"),
        (
            {"tls_client_ca": "a"},
            "--tls-client-ca: tls_certificate is missing; client certificates are asked for in TLS",
        ),
    ],
)
def test_half_a_setting_is_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(options=options)
    assert text in str(raised.value)
