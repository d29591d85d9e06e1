"""How a channel to the service is set up: retries, message sizes, and one connection for each address behind a name."""

from __future__ import annotations

import json
from typing import Any

REPEATED = ("UNAVAILABLE", "CANCELLED")
"""The statuses worth repeating a call for, and safe to: calls are idempotent, since a sample carries its seed. gRPC
says CANCELLED, where nobody here did cancel, of a call that had reached a service's socket when that was closed."""

RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.3s",
    "maxBackoff": "5s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": list(REPEATED),
}


def channel_options() -> list[tuple[str, Any]]:
    """Options for ``grpc.insecure_channel`` and its like."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": [{"service": "density.v1.DensityService"}], "retryPolicy": RETRIES}],
    }
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        # Finds out during a call that the service's machine is gone, of which TCP would not tell for minutes.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]


def call_metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call.

    Raises:
        ValueError: the token has characters that no token has; a line end that came along with it, usually.
    """
    if token is None:
        return ()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            "the token given is empty or has blanks or line ends in it; give what the file holds, stripped"
        )
    return (("authorization", f"Bearer {token}"),)
