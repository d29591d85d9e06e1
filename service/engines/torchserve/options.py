"""What a TorchServe engine is run with."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TorchServeOptions:
    """Options of one TorchServe engine.

    Attributes:
        address: host:port of the gRPC inference API of a TorchServe that runs elsewhere; None starts a child.
        management_address: host:port of its gRPC management API; needed with ``address``.
        key_file: the ``key_file.json`` of that TorchServe; None where it asks for no keys. A child has its own.
        threads: over how many threads a worker spreads the rows of one call.
        heap: Java heap of the child, as ``512m``.
        start_timeout_seconds: how long the child may take to start, and a model to load.
        response_timeout_seconds: how long a worker may take over one call before it is killed.
        batch_size: how many calls TorchServe may put together. The gateway has done that already, so 1.
        message_bytes: longer calls and answers are sent in parts of about this size; must stay below the limit of
            6,553,500 bytes that TorchServe has unless configured.
    """

    address: str | None = None
    management_address: str | None = None
    key_file: Path | None = None
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    heap: str = "512m"
    start_timeout_seconds: float = 120.0
    response_timeout_seconds: int = 120
    batch_size: int = 1
    message_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        if (self.address is None) != (self.management_address is None):
            given, missing = ("torchserve_address", "torchserve_management_address")
            if self.address is None:
                given, missing = missing, given
            raise ValueError(f"{given} is set and {missing} is not; a TorchServe that runs elsewhere needs both")

    @classmethod
    def from_settings(cls, settings: Settings) -> TorchServeOptions:
        """The options that the service's settings ask for."""
        return cls(
            address=settings.torchserve_address,
            management_address=settings.torchserve_management_address,
            key_file=settings.torchserve_key_file,
            threads=settings.threads,
            heap=settings.torchserve_heap,
            start_timeout_seconds=settings.torchserve_start_timeout_seconds,
        )
