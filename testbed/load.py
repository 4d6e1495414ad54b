"""Sends requests to both services, in a closed loop or at a steady rate, and checks every answer."""

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
"""Function from a bundle version to that bundle, opened without services, with the queries of the load."""


@dataclass
class Tally:
    """Counts of requests and of their outcomes.

    Attributes:
        sent: Number of requests sent.
        failures: Number of failed requests by error message.
        mixed: Number of wrong answers. An answer is wrong if it differs from what the bundle named in it returns
            offline, for instance because a query embedding of one model was searched in the index of another.
        bundles: Number of answers by bundle version.
        latencies: For each answer the time of its arrival by the monotonic clock, and its latency, both in seconds.
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
    """Context in which client threads send requests to both services and check the answers.

    Attributes:
        tally: Counts of the finished requests; final after the end of the context.
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
        """Prepares the client threads; `__enter__` starts them.

        Args:
            retriever: client of both services, shared by all threads.
            queries: features of the queries, which are sent in turn.
            offline: function from a bundle version to the bundle opened without services, which checks the answers.
            clients: number of threads.
            rate: requests per second of all threads together. A late request is sent at once; requests that could not
                be sent meanwhile are skipped. Default: a closed loop, in which each thread sends the next request as
                soon as the previous one is answered.
            k: number of items to request.
        """
        self._retriever, self._queries, self._offline, self._k = retriever, queries, offline, k
        self._period_s = clients / rate if rate else 0.0
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # Each distinct answer is checked once, since later answers of a bundle to the same query have to be equal.
        self._judged: dict[tuple[str, int], tuple[str, ...]] = {}
        self.tally = Tally()
        self._threads = [
            threading.Thread(target=self._run, args=[n / clients], name=f"client-{n}", daemon=True)
            for n in range(clients)
        ]

    def __enter__(self) -> Load:
        """Starts the client threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the client threads after their current requests."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, phase: float) -> None:
        """Sends requests until the context ends.

        Args:
            phase: time to wait before the first request, as a share of the period between two requests.
        """
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
