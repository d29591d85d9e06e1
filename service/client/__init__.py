"""Client of the density service: numpy in, numpy out.

Example:
    with DensityClient("localhost:50051") as client:
        log_prob = client.log_prob("demo", rows)              # rows[N, D] to [N]
        samples = client.sample("demo", 1000, seed=7)         # [1000, D], the same ones each time
"""

from service.client.asynchronous import AsyncDensityClient
from service.client.errors import (
    DeadlineExceededError,
    DensityError,
    InternalServiceError,
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    PermissionDeniedError,
    QueueFullError,
    UnauthenticatedError,
    UnavailableError,
)
from service.client.messages import ModelInfo, RowError, Samples, Scores, VersionInfo
from service.client.synchronous import DensityClient
from service.client.tls import TLS

__all__ = [
    "TLS",
    "AsyncDensityClient",
    "DeadlineExceededError",
    "DensityClient",
    "DensityError",
    "InternalServiceError",
    "InvalidRequestError",
    "LimitExceededError",
    "ModelInfo",
    "ModelNotFoundError",
    "PermissionDeniedError",
    "QueueFullError",
    "RowError",
    "Samples",
    "Scores",
    "UnauthenticatedError",
    "UnavailableError",
    "VersionInfo",
]
