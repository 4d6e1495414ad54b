"""Addresses, credentials and channel options: all that a channel is made of."""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from two_tower_client.errors import InvalidRequest

Address = str | Sequence[str]
"""`host:port`, several of them in a list or separated by commas, or one gRPC target such as `dns:///name:port`."""

Metadata = tuple[tuple[str, str], ...]
Options = list[tuple[str, str | int]]

_TARGET_SCHEMES = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:")

# Every call is a read, so a second try is harmless. The throttle stops retries while more than a third of the tries
# fail, so that they do not keep a struggling service down.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # A replica that starts, drains or has no bundle says NOT_SERVING, and gets no calls from then on.
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [
                    {"service": "two_tower.query.v1.QueryTowerService"},
                    {"service": "two_tower.ann.v1.AnnService"},
                ],
                "waitForReady": False,
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    # CANCELLED: what gRPC's server says of calls that arrive in the moment that it stops.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }
)

_OPTIONS: Options = [
    ("grpc.service_config", _SERVICE_CONFIG),
    # gRPC waits up to two minutes before it tries a lost address again: too long for a replica that restarts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A full batch of long results with attributes exceeds the default of 4 MiB.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files, in PEM, that secure a channel.

    Attributes:
        ca_file: Authorities to trust. Default: those of gRPC.
        cert_file: The certificate of this client, where the service asks for one. Goes with `key_file`.
        key_file: The key of that certificate.
        server_name: The name that the certificate of the service carries, where it is not the host of the address.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Checks that a certificate comes with its key.

        Raises:
            InvalidRequest: If one of the two is missing.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidRequest.in_field("tls", "`cert_file` and `key_file` go together; give both or none")


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client needs to open its channel and to make a call.

    Attributes:
        target: The gRPC target.
        options: Channel options.
        credentials: Of the channel; None for plain text.
        metadata: Sent along with each call. Holds the token, so it is never shown.
    """

    target: str
    options: Options
    credentials: grpc.ChannelCredentials | None
    metadata: Metadata = field(repr=False)


def connect(
    address: Address,
    *,
    token: str | None = None,
    token_file: str | None = None,
    tls: Tls | None = None,
    allow_plaintext_token: bool = False,
    check_health: bool = True,
    shared: bool = True,
) -> Connection:
    """Returns what a channel to `address` is made of.

    Args:
        address: One replica, several, or a gRPC target. Calls go to several in turn.
        token: Sent as `authorization: Bearer <token>`.
        token_file: File that holds the token, read now. Excludes `token`.
        tls: Secures the channel. Default: plain text.
        allow_plaintext_token: Send the token in plain text to other hosts than this one. Default: refuse.
        check_health: Make no call to a replica that says NOT_SERVING. Default: so.
        shared: Channels to one address may share a connection, as those of gRPC do. Default: so.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """
    hosts = _split(address)
    secret = _token(token, token_file)
    if secret and tls is None and not allow_plaintext_token and not all(_is_local(host) for host in hosts):
        raise InvalidRequest.in_field(
            "token", f"would travel in plain text to {', '.join(hosts)}; pass `tls`, or allow_plaintext_token=True"
        )
    options = list(_OPTIONS)
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    if not check_health:
        options.append(("grpc.inhibit_health_checking", 1))
    if not shared:
        options.append(("grpc.use_local_subchannel_pool", 1))
    metadata = (("authorization", f"Bearer {secret}"),) if secret else ()
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
    # gRPC resolves one name, or takes a list of addresses of one kind.
    raise InvalidRequest.in_field(
        "address",
        f"several addresses have to be all IPv4 or all IPv6, got {', '.join(hosts)}; "
        "or name one DNS name that resolves to every replica",
    )


def _ip_version(host: str) -> int:
    """Returns 4 or 6, or 0 where the host is a name."""
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


def _token(token: str | None, token_file: str | None) -> str:
    if token is not None and token_file is not None:
        raise InvalidRequest.in_field("token", "`token` and `token_file` exclude each other; give one")
    if token is None and token_file is None:
        return ""
    secret = (token if token is not None else _read(token_file or "", "token_file").decode("utf-8", "replace")).strip()
    # The value itself stays out of the message: messages are logged.
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise InvalidRequest.in_field("token", "is empty, or has spaces or other than printable ASCII characters")
    return secret


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
