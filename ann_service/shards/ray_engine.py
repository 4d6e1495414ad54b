"""Shards as actors of a Ray cluster (https://docs.ray.io). Only this module and `ray_shards` use Ray.

```
                    ┌─ every PING_S: the versions that are wanted ─► keep ─┐
front (this process)│                                                      ├─ actor: one shard, all wanted versions
                    └─ each search ───────────────────────────────► search ┘  (Ray places it, and starts it anew)
```

Ray places the actors, one for each replica of each shard, and starts an actor anew, elsewhere if its node is gone. A
version counts as open once each shard has it open. An actor that fails to answer is asked no searches until it has
answered a ping again, so that a dead one costs each search nothing.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: it would report to its makers

import ray
import structlog
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from ann_service.config import AnnConfig
from ann_service.shards.ray_shard import Opened, RayShard, Refused, State
from ann_service.shards.ray_shards import PING_TIMEOUT_S, RayShards, Replica, Shared, Wanted
from ann_service.shards.shard import Found
from retrieval.bundle.errors import BundleRefused, StoreError
from retrieval.bundle.manifest import Manifest

_PING_S = 0.25
"""Interval at which each actor is told which versions are wanted, in seconds."""
_SEARCHES_AT_ONCE = 4
"""Number of searches that one actor runs at the same time."""

_GONE_PINGS = 40
"""Number of pings in a row that find an actor dead, after which it is started anew here: Ray does not restart it, for
instance because its constructor failed."""

_ray: Any = ray
"""Ray, without its types, which do not cover its options."""

_log = structlog.get_logger("ray_engine")


class _Actor:
    """What Ray runs on a node; `RayShard` does the work. Pings are answered beside searches, however many these are."""

    def __init__(self, config: AnnConfig, number: int) -> None:
        self._shard = RayShard(config, number)

    @ray.method(concurrency_group="control")
    def keep(self, turn: int, wanted: dict[str, int]) -> dict[str, tuple[int, State]]:
        return self._shard.keep(turn, wanted)

    @ray.method(concurrency_group="search")
    def search(self, version: str, body: bytes) -> bytes | None:
        return self._shard.search(version, body)

    @ray.method(concurrency_group="search")
    def find(self, version: str, item_ids: list[str]) -> Found | None:
        return self._shard.find(version, item_ids)


class RayEngine:
    """Opens the shards of bundles on the nodes of a Ray cluster; see `ann_service.shards.loader.Engine`."""

    def __init__(self, config: AnnConfig) -> None:
        """Joins the cluster, and starts to ping.

        Raises:
            ValueError: the cluster cannot be reached.
        """
        # Nodes are other machines: a relative path would mean another folder there.
        store = os.fspath(config.store)
        self._config = replace(config, store=store if "://" in store else str(Path(store).resolve()))
        host = config.ray_address.rsplit(":", 1)[0]
        own_address = {"_node_ip_address": host} if host.startswith("127.") else {}  # otherwise Ray finds it
        try:
            _ray.init(
                address=config.ray_address,
                log_to_driver=False,
                configure_logging=False,
                ignore_reinit_error=True,
                **own_address,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"ray_address {config.ray_address}: no Ray cluster can be joined ({error}); start one with "
                "`ray start --head`, or name the address of one with --ray-address"
            ) from error
        groups = {"control": 1, "search": _SEARCHES_AT_ONCE}
        self._actor_class: Any = _ray.remote(concurrency_groups=groups)(_Actor)
        self._shared = Shared(config.shard_timeout_s)
        self._requests, self._turns = itertools.count(1), itertools.count(1)
        self._pinging = threading.Thread(target=self._ping_all, name="ping-shards", daemon=True)
        self._pinging.start()

    def open(self, manifest: Manifest, beside: Collection[str]) -> RayShards:
        """Returns the shards of a bundle once each is open; see `ann_service.shards.loader.Engine`.

        It waits for all replicas that answer, and for at least one of each shard.

        Raises:
            BundleRefused: a shard was refused.
            StoreError: a shard was not open within `load_timeout_s`, or could not read the store.
        """
        wanted = Wanted(next(self._requests), manifest.bundle_version, len(manifest.shards))
        with self._shared.lock:
            self._shared.wanted[wanted.request] = wanted
        try:
            lexical_attributes = self._wait(wanted, manifest)
        except BaseException:
            self._shared.released.append(wanted.request)
            raise
        return RayShards(self._shared, wanted, lexical_attributes)

    def close(self) -> None:
        """Ends the actors, and leaves the cluster."""
        with self._shared.lock:
            self._shared.stops = True
        self._pinging.join(2 * PING_TIMEOUT_S)
        for replica in self._shared.replicas.values():
            _ray.kill(replica.handle)
        _ray.shutdown()

    def _wait(self, wanted: Wanted, manifest: Manifest) -> tuple[str, ...]:
        """Waits until a version is open, and returns the names of its lexical attributes."""
        version, end = wanted.version, time.monotonic() + self._config.load_timeout_s
        pause = threading.Event()
        while True:
            with self._shared.lock:
                replicas = [r for (shard, _), r in self._shared.replicas.items() if shard < wanted.shard_count]
                answering = [
                    (replica.shard, state)
                    for replica in replicas
                    for request, state in [(replica.states or {}).get(version, (0, None))]
                    if request >= wanted.request
                ]
            opened = {shard: state for shard, state in answering if isinstance(state, Opened)}
            for shard, state in answering:
                if isinstance(state, Refused):
                    message = f"{manifest.shards[shard].name}: {state.message}"
                    if state.gate == "store":
                        raise StoreError(message)
                    raise BundleRefused(version, state.gate, message)
            is_complete = len(opened) == wanted.shard_count and all(state is not None for _, state in answering)
            if is_complete:
                return opened[0].lexical_attributes
            if time.monotonic() > end or self._shared.stops:
                missing = [shard.name for number, shard in enumerate(manifest.shards) if number not in opened]
                raise StoreError(
                    f"shards of {version} were not open within {self._config.load_timeout_s:g} s: "
                    f"{', '.join(missing[:10])}; `ray status` says whether the cluster has the CPUs for their actors"
                )
            pause.wait(_PING_S / 2)

    # In the thread that pings

    def _ping_all(self) -> None:
        pause = threading.Event()
        while not self._shared.stops:
            try:
                self._start_and_end_actors()
                self._ping_once()
            except Exception:
                _log.exception("pinging the shards failed; it goes on")
            pause.wait(_PING_S)

    def _start_and_end_actors(self) -> None:
        """Starts the actors that are missing, and ends those of shards that no wanted version has."""
        config, shared = self._config, self._shared
        with shared.lock:
            while shared.released:
                shared.wanted.pop(shared.released.popleft(), None)
            count = max((wanted.shard_count for wanted in self._shared.wanted.values()), default=0)
            needed = set(itertools.product(range(count), range(config.shard_replicas)))
            surplus = [self._shared.replicas.pop(key) for key in self._shared.replicas.keys() - needed]
            missing = sorted(needed - self._shared.replicas.keys())
        for replica in surplus:
            _ray.kill(replica.handle)
        for key in missing:
            handle = self._actor_class.options(
                num_cpus=config.shard_cpus,
                max_restarts=-1,  # without end
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            ).remote(config, key[0])
            with self._shared.lock:
                self._shared.replicas[key] = Replica(key[0], handle)

    def _ping_once(self) -> None:
        """Takes the answers to the last pings, and sends the next ones."""
        with self._shared.lock:
            replicas = list(self._shared.replicas.items())
            requests = sorted(self._shared.wanted.values(), key=lambda wanted: wanted.request)
        for (shard, number), replica in replicas:
            if replica.ping is not None:
                self._take_ping(replica)
            if replica.is_up != (replica.states is not None):
                replica.is_up = not replica.is_up
                _log.warning("shard answers" if replica.is_up else "shard does not answer", shard=shard, replica=number)
            if replica.gone >= _GONE_PINGS:
                _log.warning("shard is started anew", shard=shard, replica=number)
                with self._shared.lock:
                    self._shared.replicas.pop((shard, number), None)
                _ray.kill(replica.handle)
            elif replica.ping is None:
                # Of several requests for a version, the newest counts: it asks to try again.
                wanted = {each.version: each.request for each in requests if shard < each.shard_count}
                replica.ping = replica.handle.keep.remote(next(self._turns), wanted)
                replica.pinged_at = time.monotonic()

    def _take_ping(self, replica: Replica) -> None:
        """Takes the answer to the ping of a replica, if there is one; gives the ping up if it is too late."""
        ready, _ = _ray.wait([replica.ping], timeout=0)
        if ready:
            try:
                replica.states, replica.gone = _ray.get(replica.ping, timeout=PING_TIMEOUT_S), 0
                replica.answered_at = time.monotonic()
            except ActorDiedError:
                replica.states, replica.gone = None, replica.gone + 1
            except RayTaskError:
                raise
            except RayError:
                replica.states = None
            finally:
                replica.ping = None
        elif time.monotonic() - replica.pinged_at > PING_TIMEOUT_S:
            replica.states = replica.ping = None
