"""The settings of the console."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from two_tower_client.rpc.channel import Tls

_MIN_PASSWORD = 12
"""Fewest characters of a password: it can be guessed at over the network."""


_TIMEOUT_MAX_S = 15.0
"""Largest timeout of a call: somebody looks at the page and waits."""


class SettingsError(Exception):
    """A setting is invalid; the message names its option, the value, and what is allowed."""


@dataclass(frozen=True)
class Pair:
    """The replicas of a query tower service and of an ANN service that serve the same store.

    Attributes:
        name: Name that the pages show.
        query_tower: Addresses of the query tower service, separated by commas.
        ann: Addresses of the ANN service, separated by commas.
    """

    name: str
    query_tower: str
    ann: str


@dataclass(frozen=True)
class MetricsPort:
    """The Prometheus endpoint of a process of a service.

    Attributes:
        host: Host of the endpoint.
        port: Port of the endpoint.
        replica: Address of the replica that the process belongs to, as the services' addresses name it; empty: unknown.
    """

    host: str
    port: int
    replica: str = ""

    @property
    def address(self) -> str:
        """Address of the endpoint, ``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> MetricsPort:
        """Returns the endpoint that ``[REPLICA=]HOST:PORT`` names.

        Raises:
            SettingsError: the text has another form.
        """
        replica, _, address = text.rpartition("=")
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise SettingsError(f"--metrics is {text!r}, expected HOST:PORT or REPLICA=HOST:PORT")
        return MetricsPort(host.strip("[]"), int(port), replica)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the console.

    Attributes:
        store: Store of bundles: a folder, or a URL such as ``s3://bucket/prefix``.
        pairs: The pair of services that serves the store, and at most one other to compare with.
        metrics: Prometheus endpoints to read. Default: none, and no live figures.
        users: File of users to pick from; see `console.services.users`. Default: none.
        token_file: File with the bearer token for the services. Default: none; a person may give one on the page.
        tls: TLS settings of the connections to the services. Default: plain text.
        timeout_s: Seconds that a call of the services may take, above 0 and at most 15.
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free port.
        names: Further host names by which browsers reach the console, for instance behind a proxy.
        password_file: File with the password of the console. Default: none is asked for.
        certificate: TLS certificate of the console, PEM. Default: plain HTTP. Requires `key`.
        key: Private key of the certificate, PEM.
        insecure: Whether the console may listen on another address than loopback without TLS.
    """

    store: str
    pairs: tuple[Pair, ...]
    metrics: tuple[MetricsPort, ...] = ()
    users: Path | None = None
    token_file: str | None = None
    tls: Tls | None = None
    timeout_s: float = 5.0
    host: str = "127.0.0.1"
    port: int = 8300
    names: tuple[str, ...] = ()
    password_file: Path | None = None
    certificate: str | None = None
    key: str | None = None
    insecure: bool = False
    password: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the settings, and reads the password.

        Raises:
            SettingsError: a setting is out of range, a file cannot be read, or the address is not a loopback address
                and the password or TLS is missing.
        """
        if not 1 <= len(self.pairs) <= 2:
            raise SettingsError(f"{len(self.pairs)} pairs of services, expected one or two")
        if not 0 <= self.port < 65536:
            raise SettingsError(f"--port is {self.port}, expected 0 to 65535")
        if not 0 < self.timeout_s <= _TIMEOUT_MAX_S:
            raise SettingsError(
                f"--timeout-s is {self.timeout_s}, expected a number above 0 and at most {_TIMEOUT_MAX_S:g}"
            )
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("--certificate and --key go together: give both or none")
        if self.password_file is not None:
            object.__setattr__(self, "password", _read_password(self.password_file))
        if not self.is_loopback:
            if not self.password:
                raise SettingsError(
                    f"--host is {self.host}, which others can reach: give a password with --password-file, or listen "
                    "on 127.0.0.1"
                )
            if self.certificate is None and not self.insecure:
                raise SettingsError(
                    f"--host is {self.host}, and the password would travel in plain text: give --certificate and "
                    "--key, or say --insecure if a proxy in front of it has TLS"
                )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the console."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> frozenset[str]:
        """Host names, in small letters, that a request may name."""
        own = {"127.0.0.1", "localhost", "::1"} if self.is_loopback else {self.host.lower()}
        return frozenset(own | {name.lower() for name in self.names})


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--password-file cannot be read: {error}") from error
    if len(password) < _MIN_PASSWORD:
        raise SettingsError(
            f"--password-file {path} has {len(password)} characters, expected at least {_MIN_PASSWORD}: "
            "`openssl rand -base64 18` makes a good one"
        )
    return password
