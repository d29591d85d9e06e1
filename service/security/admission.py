"""The door that gRPC and HTTP share: who calls is found out here, before anything of a request is read."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

from service.errors import Unauthenticated
from service.metrics import Metrics
from service.security.caller import ANYONE, CALLER
from service.security.tokens import TokenFile
from service.settings import Settings


class Admission:
    """Lets requests in.

    Args:
        settings: where the tokens are.
        metrics: counts who was not let in.

    Raises:
        TokenFileError: the file of tokens cannot be read.

    Example:
        >>> with Admission(Settings(), Metrics()).admit(authorization=None):
        ...     CALLER.get() is ANYONE
        True
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._tokens = TokenFile(settings.token_file) if settings.token_file is not None else None
        self._metrics = metrics

    @contextlib.contextmanager
    def admit(self, authorization: str | None) -> Iterator[None]:
        """Let one request in, for as long as it takes; its caller is in ``CALLER`` from then on.

        Every request runs in a task of its own, so what is set here ends with it.

        Args:
            authorization: the header, or gRPC metadata, of that name.

        Raises:
            Unauthenticated: tokens are asked for, and this is none.
        """
        if self._tokens is None:
            CALLER.set(ANYONE)
        else:
            try:
                CALLER.set(self._tokens.authenticate(authorization))
            except Unauthenticated:
                self._metrics.rejected("unauthenticated")
                raise
        yield


def is_loopback(host: str) -> bool:
    """Whether a server on this address can be reached from its own machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
