"""The gRPC server on its port: the density service, health and reflection."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from service.errors import PortTakenError
from service.gateway import Gateway
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1 import density_service_pb2_grpc as pb_grpc
from service.generated.inference import inference_service_pb2 as inference_pb
from service.generated.inference import inference_service_pb2_grpc as inference_grpc
from service.rpc.gate import Gate
from service.rpc.inference_servicer import InferenceServicer
from service.rpc.servicer import DensityServicer
from service.security.admission import Admission
from service.security.certificates import Certificates, Identity
from service.settings import Settings

SERVICE = pb.DESCRIPTOR.services_by_name["DensityService"].full_name
INFERENCE = inference_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
INFERENCE_PROBES = (f"/{INFERENCE}/ServerLive", f"/{INFERENCE}/ServerReady")
"""What answers without a token, as health does."""
_KEEPALIVE_TIMEOUT_MS = 20_000
"""How long a client may take to say that it lives."""
_LEAST_PING_INTERVAL_MS = 10_000
"""Clients that ask more often whether the server lives are sent away."""
_MESSAGE_OVERHEAD = 64 * 1024
"""What a message may be longer than the tensors in it: names, shapes, errors."""


class RpcServer:
    """gRPC on one port.

    Health answers for ``""``, which serves as long as the process lives, and for ``density.v1.DensityService``, which
    serves when at least one model can be asked.

    Args:
        gateway: answers.
        settings: address and limits.
        admission: who may call.
        certificates: for TLS; None speaks plain text.
    """

    def __init__(
        self, gateway: Gateway, settings: Settings, admission: Admission, certificates: Certificates | None = None
    ) -> None:
        self._certificates = certificates
        self._gateway = gateway
        self._host = settings.host
        self._port = settings.grpc_port
        self._server = grpc.aio.server(
            options=[
                # Off, or two services would share the port unawares and each get some of the calls.
                ("grpc.so_reuseport", int(settings.processes > 1)),
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
                # It counts calls a little longer than clients do, and so refuses some that keep to the limit.
                ("grpc.http.overload_protection", 0),
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.max_send_message_length", settings.max_response_bytes * 2 + _MESSAGE_OVERHEAD),
                ("grpc.keepalive_time_ms", int(settings.grpc_keepalive_seconds * 1000)),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
            ],
        )
        self._health = health.aio.HealthServicer()
        gate = Gate(self._server, admission, gateway.metrics, unguarded=INFERENCE_PROBES)
        pb_grpc.add_DensityServiceServicer_to_server(DensityServicer(gateway), gate)
        inference_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceServicer(gateway), gate)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, gate)
        names = (SERVICE, INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflected = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, gate)

    async def start(self) -> int:
        """Listen.

        Returns:
            The port, which is a free one when the settings say 0.

        Raises:
            PortTakenError: another program has the port, or the address is not one of this machine.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            port = self._add_port(f"{host}:{self._port}")
        except RuntimeError:
            raise PortTakenError(
                f"cannot listen for gRPC on {host}:{self._port}: the port is in use or the address not this machine's; "
                "choose another one with --grpc-port, or 0 for a free one"
            ) from None
        await self.report_health()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return int(port)

    def _add_port(self, address: str) -> int:
        if self._certificates is None:
            return int(self._server.add_insecure_port(address))
        certificates = self._certificates
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(certificates.identity()),
            lambda: _configuration(certificates.identity()),
            require_client_authentication=certificates.mutual,
        )
        return int(self._server.add_secure_port(address, credentials))

    async def report_health(self) -> None:
        """Tell those who watch whether a model can be asked now."""
        ready = self._gateway.unready_reason is None
        state = health_pb2.HealthCheckResponse
        await self._health.set(SERVICE, state.SERVING if ready else state.NOT_SERVING)

    async def leave(self) -> None:
        """Tell those who watch that no more calls are wanted; calls are still answered."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and end those that are not done after ``grace`` seconds."""
        await self._server.stop(grace)


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], identity.client_ca)
