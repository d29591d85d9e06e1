"""Everything the gateway refuses or fails with, in one family that knows its gRPC and its HTTP status.

The two transports only write these down: ``service.rpc.status`` as ``google.rpc.Status``, ``service.web.answers`` as
JSON. Each error has an upper-snake reason for programs and a text for people that says what was given, what was
expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

DOMAIN = "density.v1"
"""Domain of every ``google.rpc.ErrorInfo``."""


class Violation(NamedTuple):
    """One field that is wrong, and why."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class RowError:
    """Why one row of a request has no answer.

    Attributes:
        row: index in the request, from 0.
        reason: upper snake case, for programs.
        message: for people.
        field: the column, when one column is to blame.
    """

    row: int
    reason: str
    message: str
    field: str = ""


class ServiceError(Exception):
    """Base of all errors a caller is answered with.

    Attributes:
        code: name of the gRPC status code.
        http_status: the HTTP status that says the same.
        reason: upper snake case, at most 63 characters.
        message: for people.
        retry_after_seconds: when to come back, where coming back helps.
    """

    code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500

    def __init__(self, reason: str, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(ServiceError):  # noqa: N818 - the name of what happened, as the status is called
    """A shape, type, width, count or body is wrong.

    Args:
        reason: upper snake case.
        violations: every field that is wrong; the first one's text is the error's own.
    """

    code = "INVALID_ARGUMENT"
    http_status = 400

    def __init__(self, reason: str, violations: Sequence[Violation]) -> None:
        super().__init__(reason, "; ".join(f"{field}: {text}" for field, text in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, reason: str, field: str, description: str) -> InvalidRequest:
        """The usual case, one wrong field."""
        return cls(reason, [Violation(field, description)])


class RequestTooLarge(InvalidRequest):
    """An HTTP body is longer than this server reads."""

    http_status = 413


class UnsupportedContentType(InvalidRequest):
    """An HTTP body is of a type this server does not read."""

    http_status = 415


class NotAcceptable(InvalidRequest):
    """No answer can be written in a type that the request accepts."""

    http_status = 406


class MethodNotAllowed(InvalidRequest):
    """The address exists, but not for this HTTP method."""

    http_status = 405


class NotFound(ServiceError):  # noqa: N818
    """No such model, version or address.

    Attributes:
        resource_type: ``"model"``, ``"version"`` or ``"path"``.
        resource_name: as in ``models/wine/versions/3``.
    """

    code = "NOT_FOUND"
    http_status = 404

    def __init__(self, reason: str, message: str, *, resource_type: str, resource_name: str) -> None:
        super().__init__(reason, message)
        self.resource_type = resource_type
        self.resource_name = resource_name


class Unauthenticated(ServiceError):  # noqa: N818
    """No credentials, or wrong ones."""

    code = "UNAUTHENTICATED"
    http_status = 401


class PermissionDenied(ServiceError):  # noqa: N818
    """The caller is known, and may not do this.

    Attributes:
        scope: what their token would have to be good for.
    """

    code = "PERMISSION_DENIED"
    http_status = 403

    def __init__(self, reason: str, message: str, *, scope: str) -> None:
        super().__init__(reason, message)
        self.scope = scope


class FailedPrecondition(ServiceError):  # noqa: N818
    """What is asked for cannot be done as things are: a version that serves cannot be retired."""

    code = "FAILED_PRECONDITION"
    http_status = 400


class QueueFull(ServiceError):  # noqa: N818
    """More rows wait for the model than the queue holds; nothing of the request was started."""

    code = "RESOURCE_EXHAUSTED"
    http_status = 429


class LimitExceeded(ServiceError):  # noqa: N818
    """A client, or all clients together, ask for more than the service's limits allow; nothing was started."""

    code = "RESOURCE_EXHAUSTED"
    http_status = 429


class DeadlinePassed(ServiceError):  # noqa: N818
    """The caller's deadline passed before the answer was ready."""

    code = "DEADLINE_EXCEEDED"
    http_status = 504


class Unavailable(ServiceError):  # noqa: N818
    """The engine is away or the server is draining; the same request may well succeed a little later."""

    code = "UNAVAILABLE"
    http_status = 503


class InternalError(ServiceError):
    """The model failed, or the gateway did."""


class RequestCancelled(ServiceError):  # noqa: N818
    """The caller went away; nobody reads this answer, it only gives the accounts their code."""

    code = "CANCELLED"
    http_status = 499


class PortTakenError(Exception):
    """A port cannot be listened on; nobody but the operator ever sees this."""
