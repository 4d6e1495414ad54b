"""The ports of a service: that of its methods, and those beside it, for health and for the admin."""

from __future__ import annotations

import grpc
import grpc.aio

_LARGEST_SIDE_REQUEST = 1024
"""Largest request to a port beside that of the methods, in bytes."""
HANDSHAKE_S = 5
"""Time in which a client of such a port has to say that it speaks HTTP/2, in seconds."""
IDLE_S = 10
"""Time without a call after which a connection to such a port is closed, in seconds; a probe connects anew."""
CALLS_OF_A_CONNECTION = 100
"""Largest number of calls at the same time on one connection to such a port; a watch of health is one."""


def bind(server: grpc.aio.Server, host: str, port: int, tls: grpc.ServerCredentials | None, flag: str) -> int:
    """Makes a server listen on an address, and returns the port.

    Args:
        server: server that has not started.
        host: address to listen on.
        port: port to listen on; 0 chooses a free port.
        tls: credentials of the port; None: plain text.
        flag: setting that names the port, for the error.

    Raises:
        ValueError: the server cannot listen on the address. The message names `flag`.
    """
    address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls)
    except RuntimeError as error:
        raise ValueError(
            f"cannot listen on {address}: {error}; if another process listens there, choose another {flag}"
        ) from error


def side_server(
    handler: grpc.GenericRpcHandler, host: str, port: int, tls: grpc.ServerCredentials | None, flag: str
) -> grpc.aio.Server:
    """Returns a server, not started, that offers one handler on a port of its own. Call it in the event loop.

    Connections that ask nothing are closed, so that they cannot use up the file descriptors of the process.

    Args:
        handler: what the port offers.
        host: address to listen on.
        port: port to listen on.
        tls: credentials of the port; None: plain text.
        flag: setting that names the port, for the error.

    Raises:
        ValueError: the server cannot listen on the address. The message names `flag`.
    """
    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", _LARGEST_SIDE_REQUEST),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        ("grpc.max_concurrent_streams", CALLS_OF_A_CONNECTION),
        # End watches of clients that are frozen or gone.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((handler,))
    bind(server, host, port, tls, flag)
    return server
