"""Addresses, credentials and options of gRPC channels."""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from two_tower_client.errors import InvalidRequest
from two_tower_client.rpc.call_metadata import CallMetadata

Address = str | Sequence[str]
"""One `host:port`, several in a list or separated by commas, or one gRPC target such as `dns:///name:port`."""

Options = list[tuple[str, str | int]]

_TARGET_SCHEMES = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:")

# A replica whose calls all failed for half a second gets no calls for 4 s, the next time for 8 s, at most for 15 s.
# So a replica that is frozen or out of reach is noticed long before a ping is missed. Half of the replicas may be set
# aside, and never the only one. A replica that failed less than twice, as under little load, is left to the ping.
_OUTLIER_DETECTION = {
    "interval": "0.5s",
    "baseEjectionTime": "4s",
    "maxEjectionTime": "15s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {"threshold": 99, "minimumHosts": 2, "requestVolume": 2},
    "childPolicy": [{"round_robin": {}}],
}

_SERVICE_CONFIG = json.dumps(
    {
        # The second is for a gRPC that does not know the first, whose name says that it is experimental.
        "loadBalancingConfig": [{"outlier_detection_experimental": _OUTLIER_DETECTION}, {"round_robin": {}}],
        # A replica that starts, drains or has no bundle reports NOT_SERVING. gRPC then sends it no calls.
        "healthCheckConfig": {"serviceName": ""},
        # Without a retry policy: `two_tower_client.rpc.retries` retries.
    }
)

_OPTIONS: Options = [
    ("grpc.service_config", _SERVICE_CONFIG),
    # By default gRPC waits up to two minutes before it reconnects: too long for a replica that restarts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Also the time that one attempt to connect may take: over a long way, TCP and TLS take several round trips.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # By default gRPC waits half a minute before it looks the addresses of a name up again when a connection has ended.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # A replica that is frozen, or whose machine is gone, gets no calls after this time at the latest. Our services
    # allow a ping every ten seconds.
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # The largest batch with attributes exceeds the default limit of 4 MiB.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings of a channel. All files are PEM, and are read once: make a new client to rotate a certificate.

    Attributes:
        ca_file: File of the certificate authorities to trust. Default: those that gRPC ships.
        cert_file: File of the client certificate, for services that require one. Requires `key_file`.
        key_file: File of the private key of the client certificate. Requires `cert_file`.
        server_name: Host name in the certificate of the service. Default: the host of the address.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Checks that certificate and key are given together.

        Raises:
            InvalidRequest: If only one of them is given.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidRequest.in_field("tls", "`cert_file` and `key_file` go together; give both or none")


@dataclass(frozen=True, slots=True)
class Connection:
    """The arguments for opening a channel and for making a call.

    Attributes:
        target: gRPC target.
        options: Channel options.
        credentials: Channel credentials; None for plain text.
        metadata: Makes the metadata of each call.
    """

    target: str
    options: Options
    credentials: grpc.ChannelCredentials | None
    metadata: CallMetadata = field(repr=False)

    @property
    def address_count(self) -> int | None:
        """Number of addresses in the target; None if it is a name, which may have several."""
        if not self.target.startswith(("unix:", "unix-abstract:", "ipv4:", "ipv6:")):
            return None
        return self.target.count(",") + 1

    @property
    def has_several_replicas(self) -> bool:
        """Whether the target names several addresses, or a name that may have several."""
        return self.address_count != 1


def connect(
    address: Address,
    *,
    token: str | None = None,
    token_file: str | None = None,
    tls: Tls | None = None,
    allow_plaintext_token: bool = False,
    caller: str = "",
    check_health: bool = True,
    shared: bool = True,
) -> Connection:
    """Returns the arguments for a channel to `address`.

    Args:
        address: Address of one replica or of several, or a gRPC target. Calls go to several replicas in turn.
        token: Bearer token, sent as `authorization: Bearer <token>`. Default: none.
        token_file: File with the bearer token, read again when it changes. Excludes `token`.
        tls: TLS settings. Default: plain text.
        allow_plaintext_token: Whether the token may be sent in plain text to another host. Default: False.
        caller: Name of the calling program. Default: none.
        check_health: Whether calls avoid replicas that report NOT_SERVING. Default: True.
        shared: Whether channels to the same address may share a connection. Default: True, as in gRPC.

    Raises:
        InvalidRequest: If an address, a file, the token or the caller is invalid.
    """
    hosts = _split(address)
    metadata = CallMetadata(token, token_file, caller)
    if metadata.has_token and tls is None and not allow_plaintext_token and not all(_is_local(host) for host in hosts):
        raise InvalidRequest.in_field(
            "token", f"would travel in plain text to {', '.join(hosts)}; pass `tls`, or allow_plaintext_token=True"
        )
    options = list(_OPTIONS)
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    # A proxy of the environment is no way to this host, and would read a token in plain text.
    if (metadata.has_token and tls is None) or all(_is_local(host) for host in hosts):
        options.append(("grpc.enable_http_proxy", 0))
    if not check_health:
        options.append(("grpc.inhibit_health_checking", 1))
    if not shared:
        options.append(("grpc.use_local_subchannel_pool", 1))
    return Connection(_target(hosts), options, _credentials(tls), metadata)


def _split(address: Address) -> list[str]:
    if isinstance(address, str) and address.startswith(_TARGET_SCHEMES):
        return [address]
    hosts = [host.strip() for host in (address.split(",") if isinstance(address, str) else address)]
    for host in hosts:
        name, colon, port = host.rpartition(":")
        if host.startswith(_TARGET_SCHEMES) and len(hosts) == 1:
            continue
        bare_ipv6 = ":" in name and not (name.startswith("[") and name.endswith("]"))
        if not name or not colon or bare_ipv6 or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidRequest.in_field("address", f"{host!r} is not host:port, for instance localhost:50051")
    if not hosts:
        raise InvalidRequest.in_field("address", "is empty; name at least one host:port")
    return hosts


def _target(hosts: list[str]) -> str:
    if len(hosts) == 1 and hosts[0].startswith(_TARGET_SCHEMES):
        return hosts[0]
    numeric = [
        f"127.0.0.1:{host.removeprefix('localhost:')}" if host.startswith("localhost:") else host for host in hosts
    ]
    versions = {_ip_version(host) for host in numeric}
    if versions == {4} or versions == {6}:
        return f"ipv{versions.pop()}:{','.join(numeric)}"
    if len(hosts) == 1:
        return f"dns:///{hosts[0]}"
    # A gRPC target is one name, or a list of addresses of one IP version.
    raise InvalidRequest.in_field(
        "address",
        f"several addresses have to be all IPv4 or all IPv6, got {', '.join(hosts)}; "
        "or name one DNS name that resolves to every replica",
    )


def _ip_version(host: str) -> int:
    """Returns 4 or 6, or 0 if the host is a name."""
    try:
        return ipaddress.ip_address(host.rpartition(":")[0].strip("[]")).version
    except ValueError:
        return 0


def _is_local(host: str) -> bool:
    if host.startswith(("unix:", "unix-abstract:")):
        return True
    if host.startswith(("ipv4:", "ipv6:")):
        return all(_is_local(part) for part in host.split(":", 1)[1].split(","))
    name = host.removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]")
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _credentials(tls: Tls | None) -> grpc.ChannelCredentials | None:
    if tls is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file, "ca_file") if tls.ca_file is not None else None,
        private_key=_read(tls.key_file, "key_file") if tls.key_file is not None else None,
        certificate_chain=_read(tls.cert_file, "cert_file") if tls.cert_file is not None else None,
    )


def _read(path: str, field_name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest.in_field(field_name, f"cannot read {path!r}: {error.strerror}") from error
