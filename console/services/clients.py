"""Clients of the services, for each bearer token that is in use."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from console.settings import Pair, Settings
from two_tower_client.cli.replica_addresses import NamedFleet
from two_tower_client.errors import Overloaded
from two_tower_client.fleet import Replica
from two_tower_client.retriever import Retriever
from two_tower_client.rpc.options import ConnectionOptions

_SETS_MAX = 8
"""Most tokens with open connections at once."""

_FRESH_S = 0.5
"""Age in seconds up to which a status is shown again, so that several pages ask the services once."""


class PairClients:
    """Clients of a pair of services. Safe for use by several threads.

    Attributes:
        pair: Addresses of the pair.
        retriever: Client of both services.
    """

    def __init__(self, pair: Pair, options: ConnectionOptions) -> None:
        """Opens the channels, which connect at the first call.

        Raises:
            InvalidRequest: An address, a file or the token is invalid.
        """
        self.pair = pair
        self.retriever = Retriever(pair.query_tower, pair.ann, **options)
        self._fleet = NamedFleet(pair.query_tower, pair.ann, **options)
        self._lock = threading.Lock()
        self._replicas: Sequence[Replica] = ()
        self._asked_s = -_FRESH_S

    def ask(self) -> Sequence[Replica]:
        """Returns the status of each replica, at most half a second old."""
        with self._lock:
            if time.monotonic() - self._asked_s > _FRESH_S:
                self._replicas = self._fleet.ask()
                self._asked_s = time.monotonic()
            return self._replicas

    def close(self) -> None:
        """Closes the channels."""
        self.retriever.close()
        with self._lock:
            self._fleet.close()


class Clients:
    """Clients of all pairs, a set for each token. Safe for use by several threads."""

    def __init__(self, settings: Settings) -> None:
        """Opens the set for the token of the settings, which stays.

        Raises:
            InvalidRequest: An address, a file or the token is invalid.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._own = self._open(None)
        self._sets: OrderedDict[str, list[PairClients]] = OrderedDict()
        self._users: dict[str, int] = {}  # how many calls use the set of a token

    @contextmanager
    def use(self, token: str | None) -> Generator[Sequence[PairClients]]:
        """Yields the clients of each pair that send a token; None: that of the settings, if there is one.

        Raises:
            InvalidRequest: The token is invalid, or would travel in plain text.
            Overloaded: Too many tokens are in use.
        """
        if token is None:
            yield self._own
            return
        with self._lock:
            clients = self._sets.get(token)
            if clients is None:
                self._make_room()
                clients = self._sets[token] = self._open(token)
            self._sets.move_to_end(token)
            self._users[token] = self._users.get(token, 0) + 1
        try:
            yield clients
        finally:
            with self._lock:
                self._users[token] -= 1

    def connection(self, token: str | None) -> ConnectionOptions:
        """Returns the options of a connection that sends a token; None: that of the settings, if there is one."""
        return {
            "timeout_s": self._settings.timeout_s,
            "token": token,
            "token_file": self._settings.token_file if token is None else None,
            "tls": self._settings.tls,
            "caller": "console",
        }

    def close(self) -> None:
        """Closes the channels."""
        with self._lock:
            for clients in (self._own, *self._sets.values()):
                for each in clients:
                    each.close()
            self._sets.clear()

    def _open(self, token: str | None) -> list[PairClients]:
        return [PairClients(pair, self.connection(token)) for pair in self._settings.pairs]

    def _make_room(self) -> None:
        if len(self._sets) < _SETS_MAX:
            return
        idle = next((token for token in self._sets if not self._users.get(token)), None)
        if idle is None:
            raise Overloaded(f"{_SETS_MAX} tokens are in use at once; try again in a second", retry_after_s=1.0)
        self._users.pop(idle, None)
        for each in self._sets.pop(idle):
            each.close()
