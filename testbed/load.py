"""Load on both services, in a closed loop or at a steady rate; every answer is compared with the bundle's own."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.offline import OfflineBundle
from two_tower_client import Retrieval, Retriever, TwoTowerError

Offline = Callable[[str], OfflineBundle]
"""Returns a bundle by version, opened with the queries of the load."""


@dataclass
class Tally:
    """Counts of requests by their outcome.

    Attributes:
        sent: number of finished requests.
        failures: number of failed requests by error message.
        mixed: number of answers that differ from what the bundle that they name answers offline.
        bundles: number of answers by bundle version.
        latencies: end on the monotonic clock and duration of each answered request, both in seconds.
    """

    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    bundles: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Number of failed requests."""
        return self.failures.total()


class Load:
    """Client threads that send requests as long as the context is open.

    Attributes:
        tally: counts of the finished requests; complete once the context has ended.
    """

    def __init__(
        self,
        retriever: Retriever,
        queries: Sequence[Mapping[str, Any]],
        offline: Offline,
        *,
        clients: int,
        rate: float | None = None,
        k: int = 10,
    ) -> None:
        """Prepares the clients; `__enter__` starts them.

        Args:
            retriever: client of both services, shared by all threads.
            queries: features of the queries, sent in turn.
            offline: opens the bundle that an answer is compared with.
            clients: number of threads.
            rate: requests a second of all clients together. A late request is sent at once, and the requests that it
                delayed are skipped. Default: a closed loop, in which each client sends the next request as soon as
                the last one is answered.
            k: number of items that a request asks for.
        """
        self._retriever, self._queries, self._offline, self._k = retriever, queries, offline, k
        self._period_s = clients / rate if rate else 0.0
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # Only the first answer of a bundle to a query is compared with the offline answer; later ones have to equal it.
        self._judged: dict[tuple[str, int], tuple[str, ...]] = {}
        self.tally = Tally()
        self._threads = [
            threading.Thread(target=self._run, args=[n / clients], name=f"client-{n}", daemon=True)
            for n in range(clients)
        ]

    def __enter__(self) -> Load:
        """Starts the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the clients once their current requests have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, phase: float) -> None:
        """Sends requests until told to stop; `phase` is the share of a period to wait before the first one."""
        due = time.monotonic() + phase * self._period_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic()) + self._period_s
            query = next(self._numbers) % len(self._queries)
            began = time.monotonic()
            try:
                answer = self._retriever.retrieve(self._queries[query], self._k)
            except TwoTowerError as error:
                with self._lock:
                    self.tally.sent += 1
                    self.tally.failures[f"{type(error).__name__}: {error}"] += 1
                continue
            ended = time.monotonic()
            mixed = not self._is_own(query, answer)
            with self._lock:
                self.tally.sent += 1
                self.tally.mixed += mixed
                self.tally.bundles[answer.bundle_version] += 1
                self.tally.latencies.append((ended, ended - began))

    def _is_own(self, query: int, answer: Retrieval) -> bool:
        """Returns whether an answer is the one that its bundle gives offline."""
        key = (answer.bundle_version, query)
        if key not in self._judged:
            if not self._offline(answer.bundle_version).agrees(query, answer.item_ids, answer.scores):
                return False
            self._judged[key] = answer.item_ids
        return self._judged[key] == answer.item_ids
