"""The settings of the connection to a service."""

from typing import TypedDict

from two_tower_client.rpc.channel import Tls


class ConnectionOptions(TypedDict, total=False):
    """Settings of the connection to a service.

    Attributes:
        timeout_s: Seconds that a call may take, unless the call sets its own timeout. Default: 1.
        token: Bearer token, sent as `authorization: Bearer <token>`. Default: none.
        token_file: File with the bearer token, read again when it changes. Excludes `token`.
        tls: TLS settings. Default: plain text.
        allow_plaintext_token: Whether the token may be sent in plain text to another host. Default: False.
        caller: Name of the calling program, 1 to 64 printable ASCII characters, sent as `two-tower-caller`. A service
            shares its time fairly among the callers that compete for it. Default: none.
        check_health: Whether calls avoid replicas that report NOT_SERVING. Default: True.
        adaptive_throttling: Whether the client rejects calls itself, as `Overloaded`, while a service refuses more than
            half of its calls; see `two_tower_client.rpc.retries.AdaptiveThrottle`. It saves the service the
            refusals, but goes on for some seconds after an overload, and does not tell cheap calls from expensive ones.
            Default: False.
        connections: Number of connections to each address, 1 to 64; calls use them in turn. Default: 1. Each connection
            leads to one worker process of a service, so a service with several workers needs several for each worker.
        own_connection: Whether this client keeps its connections to itself. Default: False: clients of the same address
            in this process share one connection, unless `connections` is above 1.
        coalesce: Whether single queries of several threads or tasks share calls, once some are under way; see
            `two_tower_client.rpc.line`. A call is never shared if it has a request id of the caller's, a user, or a
            span that is sampled. Default: True, unless the address is a name that may stand for many replicas, among
            which calls of their own would be spread.
    """

    timeout_s: float
    token: str | None
    token_file: str | None
    tls: Tls | None
    allow_plaintext_token: bool
    caller: str
    check_health: bool
    adaptive_throttling: bool
    connections: int
    own_connection: bool
    coalesce: bool | None
