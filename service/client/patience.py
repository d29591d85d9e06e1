"""How often and how long a client asks again while the service says that it will answer later."""

from __future__ import annotations

import secrets
import time

from service.client.errors import DensityError

MOST_SECONDS = 60.0
"""For a client without a timeout of its own; longer than an engine takes to be started again with its models."""


def jittered(seconds: float) -> float:
    """About so long, so that clients that were refused together do not come back together.

    Example:
        >>> 0.8 <= jittered(1.0) <= 1.2
        True
    """
    return seconds * (0.8 + 0.4 * secrets.randbelow(1000) / 1000)


class Patience:
    """The time of one question, over all the calls that it takes.

    gRPC itself makes five attempts, within nine seconds. A service whose engine has to start anew may take longer, and
    says with each refusal when to come back; it is asked again until the time is over.

    Args:
        timeout: seconds for the question; ``None`` for no limit.

    Example:
        >>> patience = Patience(timeout=10.0)
        >>> patience.left() <= 10.0
        True
        >>> 0.8 <= patience.pause(DensityError("UNAVAILABLE", "its engine restarts", retry_after_seconds=1.0)) <= 1.2
        True
    """

    def __init__(self, timeout: float | None) -> None:
        self._limited = timeout is not None
        self._end = time.monotonic() + (MOST_SECONDS if timeout is None else timeout)

    def left(self) -> float | None:
        """The timeout of the next call."""
        return max(0.0, self._end - time.monotonic()) if self._limited else None

    def pause(self, error: DensityError) -> float:
        """Seconds to wait before asking again.

        Raises:
            DensityError: the error, when the service did not say that it comes back, or not in time.
        """
        if error.code != "UNAVAILABLE" or error.retry_after_seconds is None:
            raise error
        pause = jittered(error.retry_after_seconds)
        if time.monotonic() + pause >= self._end:
            raise error
        return pause
