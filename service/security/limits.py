"""How much each client may ask for: requests and rows in a second, requests at once."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from service.errors import LimitExceeded
from service.settings import Settings

_MOST_CLIENTS = 65_536
"""Clients remembered; further ones push out those that have been quiet longest."""
_COME_BACK_SECONDS = 1.0
"""What is said where nothing tells when there will be room."""


class Bucket:
    """A token bucket: it fills at a steady rate up to a second's worth, and what is taken must be in it.

    More than it ever holds may be taken when it is full, and is then owed, so that a large request is slow to be
    followed and not impossible, and the rate holds in the long run all the same.

    Args:
        rate: units in a second.
        clock: seconds that only grow.

    Example:
        >>> now = 0.0
        >>> bucket = Bucket(10.0, lambda: now)
        >>> bucket.take(30), bucket.take(1)
        (0.0, 2.1)
        >>> now = 2.1
        >>> bucket.take(1)
        0.0
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._capacity = max(rate, 1.0)
        self._clock = clock
        self._level, self._filled = self._capacity, clock()

    def take(self, amount: int) -> float:
        """Take so much; returns 0.0, or, having taken nothing, in how many seconds it would be there."""
        wait = self._wait(amount)
        if not wait:
            self._level -= amount
        return wait

    def reserve(self, amount: int) -> float:
        """Take so much in any case; returns in how many seconds it may be used."""
        wait = self._wait(amount)
        self._level -= amount
        return wait

    def give_back(self, amount: int) -> None:
        """What was taken was not used."""
        self._level = min(self._level + amount, self._capacity)

    @property
    def full(self) -> bool:
        """Whether nothing was taken lately."""
        self._fill()
        return self._level >= self._capacity

    def _wait(self, amount: int) -> float:
        self._fill()
        return round(max(0.0, min(amount, self._capacity) - self._level) / self._rate, 6)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._filled) * self._rate)
        self._filled = now


class Client:
    """What one client has asked for lately.

    Args:
        name: for the texts of refusals, as ``the token 'notebook'``.
        settings: the limits.
        clock: seconds that only grow.
    """

    def __init__(self, name: str, settings: Settings, clock: Callable[[], float]) -> None:
        self._name = name
        self._most_at_once = settings.client_concurrent_requests
        requests, rows = settings.client_requests_per_second, settings.client_rows_per_second
        self._requests = Bucket(requests, clock) if requests is not None else None
        self._rows = Bucket(rows, clock) if rows is not None else None
        self._at_once = 0

    @property
    def quiet(self) -> bool:
        """Whether forgetting the client would change nothing."""
        return not self._at_once and all(bucket is None or bucket.full for bucket in (self._requests, self._rows))

    def begin(self) -> None:
        """A request begins; ``end`` is its end.

        Raises:
            LimitExceeded: it would be one too many.
        """
        if self._most_at_once is not None and self._at_once >= self._most_at_once:
            raise LimitExceeded(
                "TOO_MANY_AT_ONCE",
                f"{self._name} has {self._at_once} requests under way, as many as one client may have (the setting "
                "client_concurrent_requests)",
                retry_after_seconds=_COME_BACK_SECONDS,
            )
        wait = self._requests.take(1) if self._requests is not None else 0.0
        if wait:
            raise self._too_fast("requests", wait)
        self._at_once += 1

    def end(self) -> None:
        """A request that was begun is answered."""
        self._at_once -= 1

    def take_rows(self, rows: int) -> None:
        """Rows of a request are to be scored or drawn.

        Raises:
            LimitExceeded: there were too many lately.
        """
        wait = self._rows.take(rows) if self._rows is not None else 0.0
        if wait:
            raise self._too_fast("rows", wait)

    def reserve_rows(self, rows: int) -> float:
        """The same for who can wait; returns in how many seconds they may be computed."""
        return self._rows.reserve(rows) if self._rows is not None else 0.0

    def give_back_rows(self, rows: int) -> None:
        """Reserved rows were not computed after all."""
        if self._rows is not None:
            self._rows.give_back(rows)

    def _too_fast(self, what: str, wait: float) -> LimitExceeded:
        return LimitExceeded(
            "TOO_FAST",
            f"{self._name} asks for more {what} in a second than one client may (the setting client_{what}_per_second)",
            retry_after_seconds=wait,
        )


CLIENT: ContextVar[Client | None] = ContextVar("client", default=None)
"""Whose request is being answered; None where clients have no limits."""


class Limits:
    """All clients' limits, and how many requests the service takes on at once.

    Args:
        settings: the limits.
        clock: seconds that only grow.

    Attributes:
        each: whether there are limits for each client.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self.each = any(
            limit is not None
            for limit in (
                settings.client_requests_per_second,
                settings.client_rows_per_second,
                settings.client_concurrent_requests,
            )
        )
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._at_once = 0

    @contextlib.contextmanager
    def request(self, token: str, peer: str) -> Iterator[None]:
        """One request, for as long as it takes; see ``begin``."""
        client = self.begin(token, peer)
        try:
            yield
        finally:
            self.end(client)

    def begin(self, token: str, peer: str) -> Client | None:
        """A request begins; its client is in ``CLIENT`` from then on, and to be handed to ``end``.

        Args:
            token: name of the caller's token; empty where none is asked for.
            peer: the caller's address, by which callers without tokens are told apart.

        Raises:
            LimitExceeded: it would be one too many, of this client's or of all.
        """
        if self._at_once >= self._settings.max_concurrent_requests:
            raise LimitExceeded(
                "OVERLOADED",
                f"{self._at_once} requests are under way, as many as this service takes on (the setting "
                "max_concurrent_requests)",
                retry_after_seconds=_COME_BACK_SECONDS,
            )
        client = (
            self._client(f"the token {token!r}" if token else f"the address {network(peer)}") if self.each else None
        )
        CLIENT.set(client)
        if client is not None:
            client.begin()
        self._at_once += 1
        return client

    def end(self, client: Client | None) -> None:
        """A request that was begun is answered."""
        if client is not None:
            client.end()
        self._at_once -= 1

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._clients)

    def _client(self, name: str) -> Client:
        client = self._clients.get(name)
        if client is None:
            self._forget()
            client = self._clients[name] = Client(name, self._settings, self._clock)
        else:
            self._clients.move_to_end(name)
        return client

    def _forget(self) -> None:
        """Forget whoever has been quiet longest; two at a time, so that the quiet ones do not pile up."""
        for name in list(_first(self._clients, 2)):
            if self._clients[name].quiet or len(self._clients) >= _MOST_CLIENTS:
                del self._clients[name]


def network(peer: str) -> str:
    """The part of an address that one client holds: all of IPv4, of IPv6 the first 64 bits.

    Example:
        >>> network("192.0.2.7"), network("::ffff:192.0.2.7"), network("2001:db8::7:8")
        ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer or "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _first(names: OrderedDict[str, Client], count: int) -> Iterator[str]:
    for _, name in zip(range(count), names, strict=False):
        yield name
