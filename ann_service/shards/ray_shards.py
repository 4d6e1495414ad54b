"""Searches the shards of a bundle that are actors of a Ray cluster."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ann_service.shards.ray_shard import Opened, State
from ann_service.shards.shard import Found
from ann_service.shards.sharded_catalogue import ShardState
from retrieval.steps import Steps

PING_TIMEOUT_S = 5.0
"""Time without an answer to a ping after which another is sent, in seconds."""
_STEP_S = 0.002
"""Longest wait of one step for answers, in seconds."""
_LARGE_BYTES = 100_000
"""Size from which a request is put into Ray's object store once, and not sent to each actor, in bytes."""

_ray: Any = ray
"""Ray, without its types, which do not cover its options."""


@dataclass(eq=False)
class Replica:
    """An actor, as the front knows it.

    Attributes:
        shard: Number of its shard.
        handle: Ray's handle of the actor.
        states: For each version, request and state at its last answer to a ping; None while it does not answer.
        ping: Ping that is not answered; None if there is none.
        pinged_at: Time at which it was sent, in seconds of the monotonic clock.
        answered_at: Time of its last answer to a ping, in seconds of the monotonic clock.
        gone: Number of pings in a row that found it dead.
        is_up: Whether it answered, when the log last said so.
    """

    shard: int
    handle: Any
    states: dict[str, tuple[int, State]] | None = None
    ping: Any = None
    pinged_at: float = 0.0
    answered_at: float = 0.0
    gone: int = 0
    is_up: bool = False

    def has_open(self, version: str) -> bool:
        """Returns whether it answers, and has a version open."""
        states = self.states
        return states is not None and version in states and isinstance(states[version][1], Opened)


@dataclass(frozen=True)
class Wanted:
    """A version that some `RayShards` or a load wants.

    Attributes:
        request: Number of the request to open it.
        version: Bundle version.
        shard_count: Number of its shards.
    """

    request: int
    version: str
    shard_count: int


@dataclass(eq=False)
class Shared:
    """What the threads of the engine share, under `lock`.

    Attributes:
        timeout_s: Time without a sign of life after which an actor counts as dead, in seconds.
        lock: Lock of the others.
        replicas: Actors, by number of the shard and of the replica.
        wanted: What is wanted, by request, the oldest first.
        released: Requests whose shards nobody uses any more, which the thread that pings takes out of `wanted`.
        stops: Whether the engine was closed.
    """

    timeout_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    replicas: dict[tuple[int, int], Replica] = field(default_factory=dict[tuple[int, int], Replica])
    wanted: dict[int, Wanted] = field(default_factory=dict[int, Wanted])
    released: deque[int] = field(default_factory=deque[int])
    stops: bool = False


class RayShards:
    """The open shards of a bundle on the nodes of a Ray cluster; see `OpenShards`."""

    cache_bytes = 0
    """The caches are on the nodes."""

    def __init__(self, shared: Shared, wanted: Wanted, lexical_attributes: tuple[str, ...]) -> None:
        """Takes what the engine shares, the request that opened the shards, and the lexical attributes."""
        self._shared, self._wanted = shared, wanted
        self._next_replica = itertools.count()
        self.lexical_attributes = lexical_attributes
        # When the last call that uses this object has ended. No lock: the thread that frees it may hold that.
        weakref.finalize(self, shared.released.append, wanted.request)

    def states(self) -> list[ShardState]:
        """See `OpenShards`."""
        with self._shared.lock:
            replicas = list(self._shared.replicas.values())
        found: list[ShardState] = []
        for shard in range(self._wanted.shard_count):
            own = [replica for replica in replicas if replica.shard == shard and replica.states is not None]
            is_open = any(replica.has_open(self._wanted.version) for replica in own)
            found.append("open" if is_open else "opening" if own else "silent")
        return found

    def search(self, body: bytes, timeout_s: float) -> Steps[list[bytes | None]]:
        """See `OpenShards`."""
        argument = _ray.put(body) if len(body) > _LARGE_BYTES else body
        return (yield from self._ask("search", argument, timeout_s))

    def find(self, item_ids: Sequence[str], timeout_s: float) -> Steps[list[Found | None]]:
        """See `OpenShards`."""
        return (yield from self._ask("find", list(item_ids), timeout_s))

    def _ask(self, method: str, argument: Any, timeout_s: float) -> Steps[list[Any]]:
        """Returns what each shard answers, from one of its replicas; None for one that does not answer in time.

        A replica that fails, or shows no sign of life, is not asked again before it has answered a ping; the next one
        of the shard is asked instead. Pings are answered beside searches, so a long search is no reason to give up.

        Raises:
            RayTaskError: a bug in the shard.
        """
        version, count = self._wanted.version, self._wanted.shard_count
        end = time.monotonic() + timeout_s
        first = next(self._next_replica)
        answers: list[Any] = [None] * count
        waiting = [self._replicas_of(shard, first) for shard in range(count)]
        pending: dict[Any, tuple[Replica, float]] = {}

        def send(shard: int) -> None:
            if waiting[shard]:
                replica = waiting[shard].pop(0)
                pending[getattr(replica.handle, method).remote(version, argument)] = replica, time.monotonic()

        for shard in range(count):
            send(shard)
        while pending and time.monotonic() < end:
            ready, _ = _ray.wait(list(pending), num_returns=len(pending), timeout=_STEP_S)
            for reference in ready:
                replica, _ = pending.pop(reference)
                answers[replica.shard] = result_of(reference)
                if answers[replica.shard] is None:
                    replica.states = None
                    send(replica.shard)
            for reference, (replica, sent_at) in list(pending.items()):
                if time.monotonic() - max(sent_at, replica.answered_at) > self._shared.timeout_s:
                    del pending[reference]
                    replica.states = None
                    send(replica.shard)
            if pending:
                yield
        return answers

    def _replicas_of(self, shard: int, first: int) -> list[Replica]:
        """Returns the replicas of a shard that answer and have the version open, in another order each time."""
        with self._shared.lock:
            found = [r for r in self._shared.replicas.values() if r.shard == shard and r.has_open(self._wanted.version)]
        shift = first % len(found) if found else 0
        return [*found[shift:], *found[:shift]]


def result_of(reference: Any) -> Any:
    """Returns the result of a call that has ended; None if the actor is gone or was not reached.

    Raises:
        RayTaskError: the call raised an error.
    """
    try:
        return _ray.get(reference, timeout=PING_TIMEOUT_S)
    except RayTaskError:
        raise
    except RayError:
        return None
