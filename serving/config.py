"""The settings that both services share."""

# No postponed annotations: the command line reads the types of the fields, inherited ones too.

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from serving.cores import available_cores, has_every_core
from serving.logs import LEVELS


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How a service is reached, how it swaps bundles, and how it ends."""

    store: Path
    """Folder of the bundle store. Required; it may be empty at first: the service waits for a live bundle."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address needs TLS and a token, or --insecure."""

    port: int = 0
    """Port to listen on, 0 to 65535; 0 takes a free one, which the log and --port-file name."""

    port_file: Path | None = None
    """File to write the port to once the service listens, all at once; for scripts. Default: none."""

    workers: int | Literal["auto"] = 1
    """Processes that share the port, 1 to 256; auto: one for each core that this process may use.

    The default is one, since whoever runs replicas, one for each core or container, has chosen a number already, and
    each process verifies and warms each bundle by itself. What follows holds for each of them.
    """

    pin: bool | None = None
    """Keep each worker on a core of its own. Default: where --workers is auto, unless a quota leaves fewer cores.

    On one core the threads of a worker take turns at the GIL more cheaply. Loading a bundle still uses all cores.
    """

    threads: int | Literal["auto"] = "auto"
    """Threads that answer, 1 to 64. More cost CPU under the GIL: raise --workers instead. auto: 2."""

    max_in_flight: int = 64
    """Calls accepted and not yet answered, 1 to 10,000; one more is RESOURCE_EXHAUSTED at once."""

    max_batch_size: int = 1000
    """Queries or searches in one call, 1 to 1,000."""

    max_request_bytes: int = 16 << 20
    """Largest request, in bytes, 1 KiB to 1 GiB."""

    insecure: bool = False
    """Listen on an address other than loopback without TLS or without a token."""

    tls_certificate: Path | None = None
    """PEM certificate chain of this server; needs --tls-key. Default: no TLS."""

    tls_key: Path | None = None
    """PEM private key of this server."""

    tls_client_ca: Path | None = None
    """PEM certificates that have to have signed those of clients. Default: clients need none."""

    token_file: Path | None = None
    """File that holds the bearer token which calls have to carry; health checks need none. Default: no token."""

    reflection: bool = True
    """Let tools list the services and their messages."""

    poll_interval_s: float = 1.0
    """How often the store is asked what is live, in seconds, 0.01 to 3,600."""

    retire_after_s: float = 60.0
    """How long a bundle that is no longer wanted stays open, in seconds, 0 to 86,400: at least the longest deadline."""

    retry_after_s: float = 30.0
    """When a refused bundle is first tried again, in seconds, 0.01 to 86,400; doubles up to 20 times that."""

    unload_first: bool = False
    """Drop the old bundle before the new one loads, where memory holds only one; NOT_SERVING in the gap."""

    drain_delay_s: float = 1.0
    """After SIGTERM, how long health says NOT_SERVING before calls are turned away, in seconds, 0 to 600."""

    drain_timeout_s: float = 30.0
    """After that, how long calls in flight may take to finish, in seconds, 0 to 3,600."""

    metrics_port: int = 0
    """Port of the Prometheus endpoint on 127.0.0.1, 0 to 65535; 0 switches it off. Worker n has the n-th from here on.
    """

    log_level: str = "info"
    """The least severe level that is logged: debug, info, warning or error."""

    worker: int = 0
    """Number of this worker process, from 1 on; 0: this process has the port alone. Set by the parent, not by users."""

    def __post_init__(self) -> None:
        """Checks ranges, and that nothing is exposed by accident.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        for name, low, high in (
            ("port", 0, 65535),
            ("threads", 1, 64),
            ("max_in_flight", 1, 10_000),
            ("max_batch_size", 1, 1000),
            ("max_request_bytes", 1 << 10, 1 << 30),
            ("poll_interval_s", 0.01, 3600),
            ("retire_after_s", 0, 86_400),
            ("retry_after_s", 0.01, 86_400),
            ("drain_delay_s", 0, 600),
            ("drain_timeout_s", 0, 3600),
            ("metrics_port", 0, 65535),
            ("workers", 1, 256),
        ):
            value = getattr(self, name)
            if value != "auto":
                check_range(name, value, low, high)
        last_metrics_port = self.metrics_port + self.worker_count - 1
        if self.metrics_port and last_metrics_port > 65535:
            raise ValueError(
                f"metrics_port is {self.metrics_port}, and {self.worker_count} workers need ports up to "
                f"{last_metrics_port}; choose one that is at most {65536 - self.worker_count}"
            )
        if self.pin and self.workers == 1:
            raise ValueError("pin needs several workers; to keep one process on a core, start it with taskset -c CORE")
        if self.log_level not in LEVELS:
            raise ValueError(f"log_level is {self.log_level!r}, expected one of {', '.join(LEVELS)}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; set both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        exposed = not _is_loopback(self.host)
        if exposed and not self.insecure and (self.tls_certificate is None or self.token_file is None):
            raise ValueError(
                f"host {self.host} can be reached from elsewhere: set tls_certificate, tls_key and token_file, "
                "or say --insecure"
            )

    @property
    def worker_count(self) -> int:
        """How many processes share the port, `auto` resolved."""
        return available_cores() if self.workers == "auto" else self.workers

    @property
    def thread_count(self) -> int:
        """How many threads answer, `auto` resolved for the process that asks."""
        return self._auto_threads() if self.threads == "auto" else self.threads

    @property
    def pins(self) -> bool:
        """Whether each worker is kept on a core of its own."""
        if self.pin is None:
            return self.workers == "auto" and has_every_core() and self.worker_count > 1
        return self.pin and self.worker_count > 1

    def for_worker(self, number: int, port: int) -> Self:
        """Returns the settings of one of the workers.

        Args:
            number: of the worker, from 1 on.
            port: that the parent has reserved.
        """
        metrics_port = self.metrics_port + number - 1 if self.metrics_port else 0
        return replace(
            self,
            workers=self.worker_count,
            pin=self.pins,
            worker=number,
            port=port,
            port_file=None,
            metrics_port=metrics_port,
            **self._own_files(number),
        )

    def _auto_threads(self) -> int:
        return 2

    def _own_files(self, number: int) -> dict[str, Any]:
        """Returns the settings that name what two processes must not share, as worker `number` has them."""
        return {}


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Checks a setting.

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
