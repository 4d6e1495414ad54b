"""The replicas that the values of `--query-tower` and `--ann` name."""

import socket
from types import TracebackType
from typing import Self, Unpack

from two_tower_client.errors import InvalidRequest, Unavailable
from two_tower_client.fleet import Fleet, Replica, Service
from two_tower_client.rpc.options import ConnectionOptions

_SCHEME = "dns:///"


def find_replicas(text: str) -> list[str]:
    """Returns the address of each replica, in the order of the text, those of a name sorted.

    Args:
        text: Addresses separated by commas, each `host:port` for one replica, or `dns:///host:port` for the replica at
            each IP address that the host has at this moment.

    Raises:
        InvalidRequest: If a target of `dns:///` has no host, or no port from 1 to 65535.
        Unavailable: If the host has no address.
    """
    return [replica for each in text.split(",") for replica in _resolve(each.strip())]


def has_name(text: str) -> bool:
    """Returns whether a text for `find_replicas` has a target of `dns:///`: then replicas are called by IP address."""
    return any(each.strip().startswith(_SCHEME) for each in text.split(","))


def _resolve(address: str) -> list[str]:
    if not address.startswith(_SCHEME):
        return [address]
    host, _, port = address.removeprefix(_SCHEME).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidRequest.in_field("address", f"{address!r} is not dns:///host:port")
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)}
    except OSError as error:
        raise Unavailable(f"{host} has no address ({error}); does a replica run, and is the name right?") from error
    return sorted(f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}" for ip in found)


class NamedFleet:
    """The fleet of the replicas that two texts name at each moment. Close it after the last use.

    Args:
        query_tower: Addresses of the query tower service; see `find_replicas`.
        ann: Addresses of the ANN service.
        **options: See `ConnectionOptions`.
    """

    def __init__(self, query_tower: str, ann: str, **options: Unpack[ConnectionOptions]) -> None:
        self._texts: dict[Service, str] = {"query_tower": query_tower, "ann": ann}
        self._options = options
        self._addresses: dict[Service, list[str]] = {}
        self._fleet: Fleet | None = None

    def ask(self) -> list[Replica]:
        """Looks the names up, and returns the status of each replica; see `Fleet.ask`.

        A name without an address is a replica with an error.

        Raises:
            InvalidRequest: If an address, a file or the token is invalid.
        """
        addresses: dict[Service, list[str]] = {service: [] for service in self._texts}
        missing = list[Replica]()
        for service, text in self._texts.items():
            for each in text.split(","):
                try:
                    addresses[service] += find_replicas(each)
                except Unavailable as error:
                    missing.append(Replica(service, each.strip(), error=error.message))
        if self._fleet is None or addresses != self._addresses:
            self.close()
            self._fleet = Fleet(addresses["query_tower"], addresses["ann"], **self._options)
            self._addresses = addresses
        return [*self._fleet.ask(), *missing]

    def close(self) -> None:
        """Closes the channels."""
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None

    def __enter__(self) -> Self:
        """Returns the fleet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        self.close()
