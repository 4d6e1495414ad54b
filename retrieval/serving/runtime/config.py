"""The settings that both services share."""

# No postponed annotations: the command line reads the types of the fields at run time, inherited ones too.

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from retrieval.serving.runtime.cores import available_cores, quota_covers_all_cores
from retrieval.serving.runtime.logs import LEVELS

_PORTS_OF_A_WORKER = ("metrics_port", "health_port", "admin_port")
"""Settings that name the port of worker 1; each further worker uses the next one."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of a service: its address, its limits, how it swaps bundles, and how it stops.

    docs/operating.md lists all limits in one table, those that are constants too, with what a caller gets beyond each.
    """

    store: str
    """Store of bundles: a folder, or a URL such as s3://bucket/prefix. Required.

    It may be empty: the service waits for a first live bundle. Bundles of a URL are copied to the folder that the
    environment variable TWO_TOWER_CACHE names (default: ~/.cache/two-tower), of at most TWO_TOWER_CACHE_GIB (50).
    """

    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address needs TLS and a token, or --insecure."""

    port: int = 0
    """Port to listen on, 0 to 65535; 0 chooses a free port, which the log and --port-file name."""

    port_file: Path | None = None
    """File to which the port is written once the service listens, atomically; for scripts. Default: none."""

    workers: int | Literal["auto"] = 1
    """Processes that share the port, 1 to 256; auto: one for each core that this process may use.

    The default is 1 because each process verifies and warms each bundle by itself, and because many deployments already
    run one replica for each core or container. The settings below apply to each process.
    """

    pin: bool | None = None
    """Pin each worker to one core. Default: with --workers auto, if the CPU quota covers all visible cores.

    The threads of a worker hand over the GIL more cheaply on one core. Loading a bundle still uses all cores.
    """

    threads: int = 2
    """Threads that answer long calls, 1 to 64. More threads cost CPU under the GIL: raise --workers instead."""

    max_in_flight: int = 1000
    """Calls received and not yet answered, 1 to 100,000; further calls are refused with RESOURCE_EXHAUSTED."""

    max_bytes_in_flight: int = 64 << 20
    """Total size of the requests that are not yet answered, in bytes, 1 KiB to 1 TiB; further ones are refused."""

    max_streams: int = 100
    """Calls of one connection at the same time, 1 to 10,000; a gRPC client keeps further calls back by itself."""

    max_connection_age_s: float = 0.0
    """Time after which a connection is closed, once its calls have ended, in seconds, 1 to 86,400; 0: never.

    Clients connect anew and look up the addresses again, so that replicas that were added get their share of the calls.
    """

    receive_timeout_s: float = 10.0
    """Time within which the message of a call has to arrive, in seconds, 0.1 to 3,600."""

    max_batch_size: int = 1000
    """Largest number of queries or searches in one call, 1 to 1,000."""

    max_request_bytes: int = 4 << 20
    """Largest request, in bytes, 1 KiB to 1 GiB."""

    insecure: bool = False
    """Allow an address other than loopback without TLS or without a token."""

    tls_certificate: Path | None = None
    """PEM certificate chain of this server; needs --tls-key. Default: no TLS."""

    tls_key: Path | None = None
    """PEM private key of this server."""

    tls_client_ca: Path | None = None
    """PEM certificates of the authorities that sign client certificates. Default: clients need no certificate."""

    token_file: Path | None = None
    """File of the bearer tokens that calls may carry, one a line: TOKEN [NAME [SCOPES]]. Default: no token needed.

    Scopes are read, write and admin, separated by commas; without scopes a token has all. Health checks need no token,
    RecordEvents and ForgetUser the scope write, GetServingStatus and reflection admin, other calls read. A changed file
    is read within a second.
    """

    reflection: bool = True
    """Offer gRPC reflection, so that tools can list the services and their messages."""

    poll_interval_s: float = 1.0
    """Interval at which the store is read for the live bundle, in seconds, 0.01 to 3,600."""

    store_timeout_s: float = 10.0
    """Time after which a read of the store that makes no progress is reported as hung, in seconds, 0.01 to 3,600."""

    load_timeout_s: float = 900.0
    """Time after which a load of a bundle that has not ended is reported as hung, in seconds, 0.01 to 86,400."""

    retire_after_s: float = 60.0
    """How long a bundle stays open after the store no longer names it, in seconds, 0 to 86,400.

    Choose at least the longest deadline of a request.
    """

    retry_after_s: float = 30.0
    """First pause before a refused bundle is tried again, in seconds, 0.01 to 86,400; doubles up to 20 times that."""

    unload_first: bool = False
    """Drop the old bundle before the new one loads, if memory holds only one; NOT_SERVING meanwhile."""

    drain_delay_s: float = 1.0
    """Time after SIGTERM in which health says NOT_SERVING and calls are still accepted, in seconds, 0 to 600."""

    drain_timeout_s: float = 30.0
    """Time after the drain delay in which calls in flight may finish, in seconds, 0 to 3,600."""

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint. It needs no token: let only the scraper reach it."""

    metrics_port: int = 0
    """Port of the Prometheus endpoint, 0 to 65535; 0 switches it off. Worker n uses this plus n - 1."""

    health_host: str = "127.0.0.1"
    """Address of the health port. It has no TLS and needs no token, and tells nothing but the health."""

    health_port: int = 0
    """Port that answers health alone, in plain text, for probes without TLS such as those of Kubernetes, 0 to 65535.

    0 switches it off; the health service is on --port in any case. Worker n uses this plus n - 1.
    """

    admin_host: str = "127.0.0.1"
    """Address of the admin port. Anything but a loopback address needs TLS and a token, or --insecure."""

    admin_port: int = 0
    """Port of channelz, which lists the connections of this process, 0 to 65535; 0 switches it off.

    Needs the extra telemetry, and calls need the scope admin where tokens are set. Worker n uses this plus n - 1.
    """

    otlp_endpoint: str = ""
    """URL of an OpenTelemetry collector (OTLP over gRPC), such as http://localhost:4317. Needs the extra telemetry.

    Default: no spans are recorded.
    """

    log_share: float = 0.0
    """Share of the answered calls that are logged, 0 to 1. With --log-level debug, all are. Failed calls always are."""

    log_level: str = "info"
    """Least severe level that is logged: debug, info, warning or error."""

    worker: int = 0
    """Number of this worker process, from 1 on; 0: this process has the port alone. Set by the parent, not by users."""

    def __post_init__(self) -> None:
        """Checks the ranges of the settings, and that only an explicit setting exposes the service without protection.

        Raises:
            ValueError: a setting is out of range, or the address is not a loopback address and TLS or token is missing.
                The message names the setting, its value and what is allowed.
        """
        for name, low, high in (
            ("port", 0, 65535),
            ("threads", 1, 64),
            ("max_in_flight", 1, 100_000),
            ("max_bytes_in_flight", 1 << 10, 1 << 40),
            ("max_streams", 1, 10_000),
            ("max_connection_age_s", 0, 86_400),
            ("receive_timeout_s", 0.1, 3600),
            ("max_batch_size", 1, 1000),
            ("max_request_bytes", 1 << 10, 1 << 30),
            ("poll_interval_s", 0.01, 3600),
            ("store_timeout_s", 0.01, 3600),
            ("load_timeout_s", 0.01, 86_400),
            ("retire_after_s", 0, 86_400),
            ("retry_after_s", 0.01, 86_400),
            ("drain_delay_s", 0, 600),
            ("drain_timeout_s", 0, 3600),
            ("metrics_port", 0, 65535),
            ("health_port", 0, 65535),
            ("admin_port", 0, 65535),
            ("log_share", 0, 1),
            ("workers", 1, 256),
        ):
            value = getattr(self, name)
            if value != "auto":
                check_range(name, value, low, high)
        if 0 < self.max_connection_age_s < 1:
            raise ValueError(f"max_connection_age_s is {self.max_connection_age_s}, expected 0 (never), or 1 to 86400")
        self._check_ports()
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ValueError(f"otlp_endpoint is {self.otlp_endpoint!r}, expected a URL such as http://localhost:4317")
        if self.pin and self.workers == 1:
            raise ValueError("pin needs several workers; to keep one process on a core, start it with taskset -c CORE")
        if self.log_level not in LEVELS:
            raise ValueError(f"log_level is {self.log_level!r}, expected one of {', '.join(LEVELS)}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; set both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        protected = self.insecure or (self.tls_certificate is not None and self.token_file is not None)
        for name in ("host", "admin_host"):
            if not protected and not _is_loopback(getattr(self, name)):
                raise ValueError(
                    f"{name} {getattr(self, name)} can be reached from elsewhere: set tls_certificate, tls_key and "
                    "token_file, or say --insecure"
                )

    def _check_ports(self) -> None:
        # The settings of a worker name its own ports.
        count = 1 if self.worker else self.worker_count
        users = dict[int, str]()
        for name in ("port", *_PORTS_OF_A_WORKER):
            first_port = getattr(self, name)
            last_port = first_port + (0 if name == "port" else count - 1)
            if not first_port:
                continue
            if last_port > 65535:
                raise ValueError(
                    f"{name} is {first_port}, and {count} workers need ports up to {last_port}; choose one that is at "
                    f"most {65536 - count}"
                )
            for port in range(first_port, last_port + 1):
                user = users.setdefault(port, name)
                if user != name:
                    room = f"; {count} workers use as many ports from each on, but for port" if count > 1 else ""
                    raise ValueError(
                        f"{user} {getattr(self, user)} and {name} {first_port} overlap: both would use {port}{room}; "
                        f"choose another {name}"
                    )

    @property
    def worker_count(self) -> int:
        """Number of processes that share the port, with `auto` resolved."""
        return available_cores() if self.workers == "auto" else self.workers

    @property
    def pins(self) -> bool:
        """Whether each worker is pinned to one core."""
        if self.pin is None:
            return self.workers == "auto" and quota_covers_all_cores() and self.worker_count > 1
        return self.pin and self.worker_count > 1

    def for_worker(self, number: int, port: int) -> Self:
        """Returns the settings of one of the workers.

        Args:
            number: number of the worker, from 1 on.
            port: port that the parent has reserved.
        """
        ports = {name: getattr(self, name) + number - 1 for name in _PORTS_OF_A_WORKER if getattr(self, name)}
        return replace(
            self,
            workers=self.worker_count,
            pin=self.pins,
            worker=number,
            port=port,
            port_file=None,
            **ports,
            **self._own_files(number),
        )

    def _own_files(self, number: int) -> dict[str, Any]:
        """Returns the settings that name files which two processes must not share, changed for worker `number`."""
        return {}


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Checks that a setting is in its range.

    Raises:
        ValueError: `value` is outside of `low` to `high`, or NaN.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, expected {low} to {high}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
