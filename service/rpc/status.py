"""Service errors as rich gRPC status."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.errors import DOMAIN, InvalidRequest, NotFound, RowError, ServiceError
from service.generated.density.v1 import density_service_pb2 as pb
from service.request_id import HEADER, REQUEST_ID


def to_status(error: ServiceError) -> grpc.Status:
    """What ``context.abort_with_status`` takes: code, text, ``ErrorInfo`` and what else the code calls for."""
    details: list[message.Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, NotFound):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=error.resource_type, resource_name=error.resource_name, description=error.message
            )
        )
    if error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(retry)
    code = code_pb2.Code.Value(error.code)
    status = rpc_status.to_status(status_pb2.Status(code=code, message=error.message, details=map(_packed, details)))
    request_id = REQUEST_ID.get()
    if not request_id:
        return status
    return status._replace(trailing_metadata=(*status.trailing_metadata, (HEADER, request_id)))


def row_error_message(error: RowError) -> pb.RowError:
    """A bad row as the wire's message."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field:
        info.metadata["field"] = error.field
    return pb.RowError(
        row=error.row,
        error=status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=error.message, details=[_packed(info)]),
    )


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
