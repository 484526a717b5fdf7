"""The gRPC server: services, health, reflection, and its transport settings."""

import socket
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from memoryd.config import Settings, SettingsError
from memoryd.rpc.admin_service import AdminService
from memoryd.rpc.calls import Host
from memoryd.rpc.decoding import MarkUndecodable
from memoryd.rpc.memory_service import MemoryService
from memoryd.rpc.session_service import SessionService
from memoryd.rpc.tls import server_credentials
from memoryd_proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)

# A message a little too large is refused by us, with a reason; one far too large by grpc itself.
TRANSPORT_SLACK = 2
SERVICES = (
    session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
    memory_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)


def transport_options(settings: Settings) -> list[tuple[str, Any]]:
    """Channel arguments of the server, and of channels to other daemons."""
    limit = TRANSPORT_SLACK * settings.max_message_bytes
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),  # two daemons on one port would share its calls at random
    ]
    if settings.max_connection_age:
        age = int(settings.max_connection_age * 1000)
        options += [
            ("grpc.max_connection_age_ms", age),
            ("grpc.max_connection_age_grace_ms", age),
        ]
    return options


def _try_to_bind(host: str, port: int, listen: str) -> None:
    """Raises SettingsError with the system's reason, which grpc prints and does not give."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {listen} ({error.strerror}): stop what listens there, or choose "
            "another --listen"
        ) from None


class Server:
    """Binds first, serves when everything behind it stands."""

    def __init__(self, settings: Settings) -> None:
        self._server = grpc.aio.server(
            interceptors=[MarkUndecodable()], options=transport_options(settings)
        )
        self._health = health.aio.HealthServicer()
        host, _, port = settings.listen.rpartition(":")
        _try_to_bind(host.strip("[]"), int(port), settings.listen)
        credentials = server_credentials(settings)
        self.port = (
            self._server.add_insecure_port(settings.listen)
            if credentials is None
            else self._server.add_secure_port(settings.listen, credentials)
        )
        self.address = f"{host}:{self.port}" if port == "0" else settings.listen

    async def start(self, services: Host) -> None:
        session_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionService(services), self._server
        )
        memory_pb2_grpc.add_MemoryServiceServicer_to_server(MemoryService(services), self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(services), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        await self._server.start()
        for name in ("", *SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def refuse(self) -> None:
        """Tells load balancers to go elsewhere."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        await self._server.stop(grace)
