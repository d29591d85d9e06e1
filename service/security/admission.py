"""The door that gRPC and HTTP share: who calls is found out here, before anything of a request is read."""

from __future__ import annotations

import ipaddress
from types import TracebackType

from service.errors import LimitExceeded, Unauthenticated
from service.metrics import Metrics
from service.security.caller import ANYONE, CALLER
from service.security.limits import Client, Limits
from service.security.tokens import TokenFile
from service.settings import Settings


class Admission:
    """Lets requests in.

    Args:
        settings: where the tokens are, and the limits.
        metrics: counts who was not let in.

    Raises:
        TokenFileError: the file of tokens cannot be read.

    Example:
        >>> with Admission(Settings(), Metrics()).admit(authorization=None, peer="127.0.0.1"):
        ...     CALLER.get() is ANYONE
        True
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._tokens = TokenFile(settings.token_file) if settings.token_file is not None else None
        self._limits = Limits(settings)
        self._metrics = metrics

    @property
    def asks_for_peers(self) -> bool:
        """Whether it matters where a request comes from: clients without tokens have limits."""
        return self._limits.each

    def admit(self, authorization: str | None, peer: str) -> Admitted:
        """Let one request in, for as long as it takes; its caller is in ``CALLER`` from then on.

        Every request runs in a task of its own, so what is set here ends with it.

        Args:
            authorization: the header, or gRPC metadata, of that name.
            peer: the address it comes from, without a port.

        Raises:
            Unauthenticated: tokens are asked for, and this is none.
            LimitExceeded: the client, or all of them together, ask for too much.
        """
        return Admitted(self, authorization, peer)

    def begin(self, authorization: str | None, peer: str) -> Client | None:
        """What ``admit`` does when it is entered; ``end`` is its end."""
        caller = ANYONE
        if self._tokens is not None:
            try:
                caller = self._tokens.authenticate(authorization)
            except Unauthenticated:
                self._metrics.rejected("unauthenticated")
                raise
        CALLER.set(caller)
        try:
            return self._limits.begin(caller.name, peer)
        except LimitExceeded as error:
            self._metrics.rejected(error.reason.lower())
            raise

    def end(self, client: Client | None) -> None:
        """A request that was begun is answered."""
        self._limits.end(client)


class Admitted:
    """From ``Admission.admit``: one request that was let in."""

    __slots__ = ("_admission", "_arguments", "_client")

    def __init__(self, admission: Admission, authorization: str | None, peer: str) -> None:
        self._admission = admission
        self._arguments = (authorization, peer)

    def __enter__(self) -> None:
        self._client = self._admission.begin(*self._arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.end(self._client)


def is_loopback(host: str) -> bool:
    """Whether a server on this address can be reached from its own machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
