"""The open bundles: opens what the store names beside what is open, and swaps one reference.

`Live` drives `serving.lifecycle`: one thread polls the store and applies decisions, a load runs in a thread of its own
so that a roll back during a slow load is immediate all the same. Requests take `Live.snapshot` once and keep what they
took; a bundle is never unloaded, only let go, and goes away with the last request that holds it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from bundle.errors import BundleError, BundleNotFound, BundleRefused, StoreError
from bundle.store import BundleStore
from serving import lifecycle
from serving.config import ServerConfig
from serving.cores import unpin_thread
from serving.metrics import Metrics

T = TypeVar("T")

_BACKOFF_LIMIT = 20
_log = structlog.get_logger("live")


@dataclass(frozen=True)
class Served(Generic[T]):
    """An open bundle.

    Attributes:
        version: of the bundle.
        bundle: what `open` returned.
        opened_at_ms: when requests could first reach it, in milliseconds since 1970-01-01 UTC.
    """

    version: str
    bundle: T = field(compare=False)
    opened_at_ms: int


@dataclass(frozen=True)
class Problem:
    """A bundle that is not served, and why.

    Attributes:
        version: of the bundle; empty where the store itself is at fault.
        gate: the check that refused it.
        message: what was found, what was expected, what to do.
        refused_at_ms: when, in milliseconds since 1970-01-01 UTC.
    """

    version: str
    gate: str
    message: str
    refused_at_ms: int


@dataclass(frozen=True)
class Snapshot(Generic[T]):
    """What a request sees. Immutable.

    Attributes:
        open: the open bundles, the one that answers by default first.
        live_version: what the store names as live; empty where it names none.
        loading_version: what is being loaded; empty where nothing is.
        problems: what the store names and is not served.
    """

    open: tuple[Served[T], ...] = ()
    live_version: str = ""
    loading_version: str = ""
    problems: tuple[Problem, ...] = ()


@dataclass
class _Clocks:
    """When what is due, in seconds of the monotonic clock."""

    retire_at: dict[str, float] = field(default_factory=dict[str, float])
    retry_at: dict[str, float] = field(default_factory=dict[str, float])
    retry_delay: dict[str, float] = field(default_factory=dict[str, float])
    wanted_since: float = 0.0


class Live(Generic[T]):
    """Keeps the live bundle and the one before it open. `snapshot` may be read by any thread at any time."""

    def __init__(
        self,
        store: BundleStore,
        open: Callable[[str, Collection[str]], T],
        config: ServerConfig,
        metrics: Metrics,
    ) -> None:
        """Takes the parts; nothing runs before `start`.

        Args:
            store: names what is live.
            open: verifies, opens and warms a bundle; gets its version and the versions that are open meanwhile.
                Raises `bundle.errors.BundleError`. Never called twice at once.
            config: intervals.
            metrics: loads, refusals and swaps are noted there.
        """
        self._store = store
        self._open = open
        self._config = config
        self._metrics = metrics
        self._state = lifecycle.State()
        self._served: dict[str, Served[T]] = {}
        self._problems: dict[str, Problem] = {}
        self._clocks = _Clocks()
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._snapshot: Snapshot[T] = Snapshot()
        self._live_version = ""
        self._on_change: Callable[[Snapshot[T]], None] = lambda snapshot: None
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._stopping = False

    @property
    def worker(self) -> int:
        """Which of the workers on this port has these bundles open, from 1 on; 0: there is one process alone."""
        return self._config.worker

    @property
    def worker_count(self) -> int:
        """How many worker processes share the port; each has bundles of its own."""
        return self._config.worker_count

    @property
    def snapshot(self) -> Snapshot[T]:
        """What is open now. Take it once a request."""
        return self._snapshot

    def start(self, on_change: Callable[[Snapshot[T]], None]) -> None:
        """Starts to watch the store.

        Args:
            on_change: called with each new snapshot after it is in place, by the watching thread.
        """
        self._on_change = on_change
        self._thread.start()

    def stop(self) -> None:
        """Ends the watching thread; what is open stays so until this object goes. A load that runs is abandoned."""
        self._stopping = True
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        next_poll = time.monotonic()
        while not self._stopping:
            if time.monotonic() >= next_poll:
                self._guard(self._poll)
                next_poll = time.monotonic() + self._config.poll_interval_s
            due = [next_poll, *self._clocks.retire_at.values(), *self._clocks.retry_at.values()]
            try:
                event = self._events.get(timeout=max(0.0, min(due) - time.monotonic()))
            except queue.Empty:
                event = None
            if event is not None:
                self._guard(event)
            del event  # it may hold a bundle
            self._guard(self._tick)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            # The watcher must outlive any surprise: without it no later bundle would ever be served.
            _log.exception("watching the store failed; it goes on")
            self._note(Problem("", "error", f"watching the store failed: {type(error).__name__}; see log", _now_ms()))
            self._publish()

    def _poll(self) -> None:
        try:
            pointer = self._store.live()
        except StoreError as error:
            self._note(Problem("", "store", str(error), _now_ms()))
            self._publish()
            return
        if pointer is None:
            self._live_version = ""
            message = f"no bundle is live in {self._store.root}: publish one and promote it"
            self._note(Problem("", "live", message, _now_ms()))
            self._publish()
            return
        self._problems.pop("", None)
        self._live_version = pointer.version
        if pointer.served != self._state.wanted:
            _log.info("live bundle changed", wanted=pointer.served, open=self._state.open)
            if pointer.version != self._state.live:
                self._clocks.wanted_since = time.monotonic()
            self._clocks.retry_delay.clear()
            self._step(lifecycle.PointerChanged(pointer.served))
        else:
            self._publish()

    def _tick(self) -> None:
        now = time.monotonic()
        for version in [version for version, at in self._clocks.retire_at.items() if at <= now]:
            self._step(lifecycle.GraceElapsed(version))
        for version in [version for version, at in self._clocks.retry_at.items() if at <= now]:
            del self._clocks.retry_at[version]
            self._step(lifecycle.RetryDue(version))

    def _step(self, event: lifecycle.Event) -> None:
        self._state, decisions = lifecycle.step(self._state, event, unload_first=self._config.unload_first)
        now = time.monotonic()
        switched = ""
        for decision in decisions:
            match decision:
                case lifecycle.Switch(version):
                    switched = version
                case lifecycle.Retire(version):
                    _log.info("bundle retires", bundle=version, after_s=self._config.retire_after_s)
                case lifecycle.Drop(version):
                    self._served.pop(version, None)
                    _log.info("bundle dropped", bundle=version)
                case lifecycle.Load():
                    pass  # below, when what had to be dropped has been let go
        clocks, retiring, refused = self._clocks, self._state.retiring, self._state.refused
        clocks.retire_at = {v: clocks.retire_at.get(v, now + self._config.retire_after_s) for v in retiring}
        clocks.retry_at = {v: clocks.retry_at.get(v, now + self._next_delay(v)) for v in refused}
        self._problems = {v: p for v, p in self._problems.items() if v in (*self._state.wanted, "")}
        for version in self._state.open:
            self._problems.pop(version, None)
        self._publish()
        if switched:
            duration_s = time.monotonic() - clocks.wanted_since
            if switched == self._state.live:
                self._metrics.swap.observe(duration_s)
            self._metrics.live_bundle.info({"bundle_version": switched})
            _log.info("bundle answers", bundle=switched, live=self._state.live, duration_s=round(duration_s, 3))
        for decision in decisions:
            if isinstance(decision, lifecycle.Load):
                self._begin_load(decision.version)

    def _next_delay(self, version: str) -> float:
        # A half-copied bundle may become whole, so it is tried again; ever more rarely, since a try reads it all.
        first = self._config.retry_after_s
        delay = min(self._clocks.retry_delay.get(version, first / 2) * 2, first * _BACKOFF_LIMIT)
        self._clocks.retry_delay[version] = delay
        return delay

    def _begin_load(self, version: str) -> None:
        _log.info("bundle loads", bundle=version)
        beside = self._state.open
        threading.Thread(target=self._load, args=(version, beside), name=f"load-{version}", daemon=True).start()

    def _load(self, version: str, beside: Collection[str]) -> None:
        started = time.monotonic()
        unpin_thread()
        try:
            bundle = self._open(version, beside)
        except BundleRefused as error:
            problem = Problem(version, error.gate, error.message, _now_ms())
        except BundleNotFound as error:
            problem = Problem(version, "missing", str(error), _now_ms())
        except BundleError as error:
            problem = Problem(version, "store", str(error), _now_ms())
        except Exception as error:
            _log.exception("bundle failed to load", bundle=version)
            problem = Problem(version, "error", f"loading failed: {type(error).__name__}; see log", _now_ms())
        else:
            _log.info("bundle loaded", bundle=version, duration_s=round(time.monotonic() - started, 3))
            served = Served(version, bundle, _now_ms())
            self._events.put(lambda: self._loaded(served))
            return
        self._events.put(lambda: self._refused(problem))

    def _loaded(self, served: Served[T]) -> None:
        self._metrics.loads.inc()
        self._served[served.version] = served
        self._step(lifecycle.LoadFinished(served.version))

    def _refused(self, problem: Problem) -> None:
        self._metrics.refusals.labels(problem.gate).inc()
        self._note(problem)
        self._step(lifecycle.LoadRefused(problem.version))

    def _note(self, problem: Problem) -> None:
        old = self._problems.get(problem.version)
        if old is not None and (old.gate, old.message) == (problem.gate, problem.message) and not problem.version:
            return  # the same fault of the store at every poll: once is enough
        self._problems[problem.version] = problem
        _log.error(
            "bundle refused" if problem.version else "nothing to load",
            bundle=problem.version,
            gate=problem.gate,
            message=problem.message,
            still_serving=self._state.open[:1],
        )

    def _publish(self) -> None:
        snapshot = Snapshot(
            tuple(self._served[version] for version in self._state.open),
            self._live_version,
            self._state.loading,
            tuple(self._problems.values()),
        )
        if snapshot != self._snapshot:
            self._snapshot = snapshot  # the swap: one reference
            self._metrics.open_bundles.set(len(snapshot.open))
            self._on_change(snapshot)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
