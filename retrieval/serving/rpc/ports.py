"""The ports of a service: that of its methods, and those beside it, for health and for the admin."""

from __future__ import annotations

import grpc
import grpc.aio

_LARGEST_SIDE_REQUEST = 1024
"""Largest request to a port beside that of the methods, in bytes."""


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

    Args:
        handler: what the port offers.
        host: address to listen on.
        port: port to listen on.
        tls: credentials of the port; None: plain text.
        flag: setting that names the port, for the error.

    Raises:
        ValueError: the server cannot listen on the address. The message names `flag`.
    """
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _LARGEST_SIDE_REQUEST)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((handler,))
    bind(server, host, port, tls, flag)
    return server
