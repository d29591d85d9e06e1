"""What a call raises: one family, with the reason and the wrong fields that the service named."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class DensityError(Exception):
    """A call that was not answered.

    Attributes:
        code: name of the gRPC status, such as ``INVALID_ARGUMENT``.
        reason: upper-snake reason of the service, such as ``QUEUE_FULL``; empty when the call never reached it.
        violations: for each wrong field what is wrong with it.
        retry_after_seconds: when coming back may help, or ``None``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        violations: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.reason = reason
        self.violations = dict(violations or {})
        self.retry_after_seconds = retry_after_seconds


class InvalidRequestError(DensityError, ValueError):
    """A shape, type, width or count is wrong; ``violations`` names the fields."""


class ModelNotFoundError(DensityError, LookupError):
    """No such model or version."""


class QueueFullError(DensityError):
    """The service has more to do than it takes on; come back after ``retry_after_seconds``."""


class LimitExceededError(QueueFullError):
    """This client asks for more than one client may; come back after ``retry_after_seconds``."""


class DeadlineExceededError(DensityError, TimeoutError):
    """No answer within the timeout."""


class UnavailableError(DensityError, ConnectionError):
    """The service is away, or its engine is, and stayed so through every retry."""


class UnauthenticatedError(DensityError, PermissionError):
    """No credentials, or wrong ones."""


class PermissionDeniedError(DensityError, PermissionError):
    """The token given is not good for this."""


class InternalServiceError(DensityError):
    """The model or the service failed on this request."""


_ERRORS: dict[grpc.StatusCode, type[DensityError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QueueFullError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.INTERNAL: InternalServiceError,
}


_LIMITS = ("TOO_FAST", "TOO_MANY_AT_ONCE")


def from_rpc_error(error: grpc.RpcError) -> DensityError:
    """The typed error for what grpc raised, with the details the service attached."""
    code = error.code()
    reason, violations, retry_after = "", {}, None
    status = rpc_status.from_call(_Call(error))
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason = info.reason
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = {item.field: item.description for item in bad.field_violations}
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    kind = LimitExceededError if reason in _LIMITS else _ERRORS.get(code, DensityError)
    return kind(
        code.name,
        error.details() or "no details",
        reason=reason,
        violations=violations,
        retry_after_seconds=retry_after,
    )


class _Call:
    """The three questions that ``rpc_status.from_call`` asks, answered alike for sync and async errors."""

    def __init__(self, error: grpc.RpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str:
        return str(self._error.details() or "")

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return tuple(tuple(pair) for pair in self._error.trailing_metadata() or ())
