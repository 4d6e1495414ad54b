"""The addresses of replicas, from the values of `--query-tower` and `--ann`."""

import socket

from two_tower_client.errors import InvalidRequest, Unavailable

_SCHEME = "dns:///"


def find_replicas(text: str) -> list[str]:
    """Returns the address of each replica, in the order of the text, those of a name sorted.

    Args:
        text: Addresses separated by commas, each `host:port` for one replica, or `dns:///host:port` for the replica at
            each IP address of the host at this moment.

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
