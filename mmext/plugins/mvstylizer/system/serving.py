"""What the servers of edge and cloud have in common: limits of the transport, TLS, health."""

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from .certificates import Identity


def server_options(max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """Options of a server that is open to the world."""
    return (
        ('grpc.max_receive_message_length', max_message_bytes),
        ('grpc.max_metadata_size', 8 << 10),
        ('grpc.http2.min_recv_ping_interval_without_data_ms', 10_000),
        ('grpc.max_connection_idle_ms', 300_000),
        ('grpc.so_reuseport', 0),
    )


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """TLS with the server's certificate."""
    return grpc.ssl_server_credentials(
        [(Path(identity.key).read_bytes(), Path(identity.certificate).read_bytes())]
    )


async def add_health(server: grpc.aio.Server, service: str) -> health.HealthServicer:
    """Add the standard health service; all SERVING."""
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ('', service):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    return servicer
