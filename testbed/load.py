"""Traffic that judges every answer, in a closed loop or at a steady rate."""

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
    """What became of the requests.

    Attributes:
        sent: all of them.
        failures: by message.
        mixed: answers that are not those of the bundle that they name.
        bundles: answers by bundle version.
        latencies: (moment of the end, seconds) of each answer, by the monotonic clock.
    """

    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    bundles: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """All failures."""
        return self.failures.total()


class Load:
    """Clients that send requests until told to stop; a context manager.

    Attributes:
        tally: of the finished requests; complete after the context.
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
        """Takes the parts; `__enter__` starts the clients.

        Args:
            retriever: shared by all clients.
            queries: sent in turn.
            offline: what answers are judged by.
            clients: threads.
            rate: requests a second, of all clients together; a request that is late is sent at once, and those that it
                delayed are not made up for. Default: a closed loop, in which each client sends the next request as soon
                as the last one is answered.
            k: items asked for.
        """
        self._retriever, self._queries, self._offline, self._k = retriever, queries, offline, k
        self._period_s = clients / rate if rate else 0.0
        self._turn = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # An answer is judged once: the same bundle has to give the same answer to the same query ever after.
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
        """Lets each finish its request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, phase: float) -> None:
        """Sends requests until told to stop; `phase` is the share of a period to wait before the first one."""
        due = time.monotonic() + phase * self._period_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic()) + self._period_s
            query = next(self._turn) % len(self._queries)
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
        key = (answer.bundle_version, query)
        if key not in self._judged:
            if not self._offline(answer.bundle_version).agrees(query, answer.item_ids, answer.scores):
                return False
            self._judged[key] = answer.item_ids
        return self._judged[key] == answer.item_ids
