"""Opens the bundles that the store names while earlier ones stay open, and swaps them without a restart.

`OpenBundles` drives the state machine of `retrieval.serving.bundles.swap_policy`. One thread applies the decisions. It
never reads the store: polls run in the thread of `retrieval.serving.bundles.store_watch`, and each load runs in its own
thread, so that a roll back during a slow load takes effect at once and a store that hangs stops nothing else.
A request reads `OpenBundles.snapshot` once and uses that snapshot to its end. A bundle is never closed: the reference
to it is dropped, and its memory is freed when the last request that uses it ends.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from retrieval.bundle.errors import BundleError, BundleNotFound, BundleRefused
from retrieval.serving.bundles import swap_policy
from retrieval.serving.bundles.open_bundle import OpenBundle, Problem, Snapshot, now_ms
from retrieval.serving.bundles.store_watch import PollResult, StoreWatch
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.cores import unpin_thread
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.live import LivePointer
from retrieval.store.store import BundleStore

T = TypeVar("T")

_BACKOFF_LIMIT = 20
"""Longest pause before a refused bundle is tried again, as a multiple of the first pause."""

_STOP_S = 2.0
"""Longest wait for the end of the watching thread, in seconds; it only waits for events, so it ends at once."""

_log = structlog.get_logger("open_bundles")


@dataclass
class _Timers:
    """Deadlines and pauses, by bundle version, in seconds of the monotonic clock.

    Attributes:
        retire_at: end of the grace period of each retiring bundle.
        retry_at: time of the next try of each refused bundle.
        retry_delay: last pause before another try of each refused bundle.
        wanted_since: time at which the store was first seen to name the current live bundle.
    """

    retire_at: dict[str, float] = field(default_factory=dict[str, float])
    retry_at: dict[str, float] = field(default_factory=dict[str, float])
    retry_delay: dict[str, float] = field(default_factory=dict[str, float])
    wanted_since: float = 0.0


class OpenBundles(Generic[T]):
    """Keeps the live bundle and the one before it open. `snapshot` may be read by any thread at any time."""

    def __init__(
        self,
        store: BundleStore,
        open: Callable[[str, Collection[str]], T],
        config: ServerConfig,
        metrics: Metrics,
    ) -> None:
        """Prepares the threads that watch the store; `start` starts them.

        Args:
            store: bundle store; its pointer names the live bundle and the one before it.
            open: verifies, opens and warms the bundle of a version, and returns it. Its second argument is the versions
                that stay open meanwhile. Raises `retrieval.bundle.errors.BundleError`. Calls never overlap.
            config: intervals, time limits, grace period and backoff.
            metrics: receives loads, refusals, swaps and the state of the store.
        """
        self._store = store
        self._open = open
        self._config = config
        self._metrics = metrics
        self._state = swap_policy.State()
        self._bundles: dict[str, OpenBundle[T]] = {}
        self._problems: dict[str, Problem] = {}
        self._timers = _Timers()
        self._store_watch = StoreWatch(
            store, config, metrics, lambda result: self._events.put(lambda: self._polled(result))
        )
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._snapshot: Snapshot[T] = Snapshot()
        self._live_version = ""
        self._on_change: Callable[[Snapshot[T]], None] = lambda snapshot: None
        self._thread = threading.Thread(target=self._run, name="open-bundles", daemon=True)
        self._stopping = False

    @property
    def worker(self) -> int:
        """Number of this worker process, from 1 on; 0 where one process has the port alone."""
        return self._config.worker

    @property
    def worker_count(self) -> int:
        """Number of worker processes that share the port; each opens its own bundles."""
        return self._config.worker_count

    @property
    def snapshot(self) -> Snapshot[T]:
        """The current snapshot. A request reads it once."""
        return self._snapshot

    def start(self, on_change: Callable[[Snapshot[T]], None]) -> None:
        """Starts the threads that watch the store.

        Args:
            on_change: called by one of them with each new snapshot, once `snapshot` returns it.
        """
        self._on_change = on_change
        self._thread.start()
        self._store_watch.start()

    def stop(self) -> None:
        """Stops watching the store, at once even if the store hangs: a poll or load that runs is abandoned.

        Bundles stay open as long as this object exists.
        """
        self._stopping = True
        self._store_watch.stop()
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        while not self._stopping:
            due = [self._store_watch.next_check_s, *self._timers.retire_at.values(), *self._timers.retry_at.values()]
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
            # Without this thread no later bundle would ever be opened, so no error may end it.
            _log.exception("watching the store failed; it goes on")
            self._note(Problem("", "error", f"watching the store failed: {type(error).__name__}; see log", now_ms()))
            self._publish()

    def _polled(self, result: PollResult) -> None:
        self._store_watch.note(result)
        if not isinstance(result, Exception):
            self._live_version = result.version if result else ""
        self._note_store()
        if isinstance(result, LivePointer) and result.open_versions != self._state.wanted:
            _log.info("live bundle changed", wanted=result.open_versions, open=self._state.open)
            if result.version != self._state.live:
                self._timers.wanted_since = time.monotonic()
            self._timers.retry_delay.clear()
            self._step(swap_policy.PointerChanged(result.open_versions))
        else:
            self._publish()

    def _note_store(self) -> None:
        problem = self._store_watch.problem
        if problem is not None:
            self._note(problem)
        elif self._problems.pop("", None):
            _log.info("the problem of the store is over", store=self._store.name)

    def _tick(self) -> None:
        if self._store_watch.check():
            self._note_store()
            self._publish()
        now = time.monotonic()
        for version in [version for version, at in self._timers.retire_at.items() if at <= now]:
            self._step(swap_policy.GraceElapsed(version))
        for version in [version for version, at in self._timers.retry_at.items() if at <= now]:
            del self._timers.retry_at[version]
            self._step(swap_policy.RetryDue(version))

    def _step(self, event: swap_policy.Event) -> None:
        self._state, decisions = swap_policy.step(self._state, event, unload_first=self._config.unload_first)
        now = time.monotonic()
        switched = ""
        for decision in decisions:
            match decision:
                case swap_policy.Switch(version):
                    switched = version
                case swap_policy.Retire(version):
                    _log.info("bundle retires", bundle=version, after_s=self._config.retire_after_s)
                case swap_policy.Drop(version):
                    self._bundles.pop(version, None)
                    _log.info("bundle dropped", bundle=version)
                case swap_policy.Load():
                    pass  # started below, after the references to dropped bundles are gone
        timers, retiring, refused = self._timers, self._state.retiring, self._state.refused
        timers.retire_at = {v: timers.retire_at.get(v, now + self._config.retire_after_s) for v in retiring}
        # Not dict.get with a default: that would lengthen the pause of a bundle which already waits.
        timers.retry_at = {
            v: timers.retry_at[v] if v in timers.retry_at else now + self._next_delay(v) for v in refused
        }
        self._problems = {v: p for v, p in self._problems.items() if v in (*self._state.wanted, "")}
        for version in self._state.open:
            self._problems.pop(version, None)
        self._store.keep((*self._state.open, self._state.loading))
        self._publish()
        if switched:
            duration_s = time.monotonic() - timers.wanted_since
            if switched == self._state.live:
                self._metrics.swap.observe(duration_s)
            _log.info("bundle answers", bundle=switched, live=self._state.live, duration_s=round(duration_s, 3))
        for decision in decisions:
            if isinstance(decision, swap_policy.Load):
                self._begin_load(decision.version)

    def _next_delay(self, version: str) -> float:
        first = self._config.retry_after_s
        problem = self._problems.get(version)
        if problem is not None and problem.gate == "store":
            return first  # the next try goes on where this one ended
        # A bundle that is still being copied may be complete later. Each try reads all of it, hence the growing pause.
        delay = min(self._timers.retry_delay.get(version, first / 2) * 2, first * _BACKOFF_LIMIT)
        self._timers.retry_delay[version] = delay
        return delay

    def _begin_load(self, version: str) -> None:
        _log.info("bundle loads", bundle=version)
        arguments = (version, self._state.open)
        threading.Thread(target=self._load, args=arguments, name=f"load-{version}", daemon=True).start()

    def _load(self, version: str, already_open: Collection[str]) -> None:
        started = time.monotonic()
        unpin_thread()
        try:
            with self._store_watch.loads.track(str(self._store.path(version))):
                bundle = self._open(version, already_open)
        except BundleRefused as error:
            problem = Problem(version, error.gate, error.message, now_ms())
        except BundleNotFound as error:
            problem = Problem(version, "missing", str(error), now_ms())
        except BundleError as error:
            problem = Problem(version, "store", str(error), now_ms())
        except Exception as error:
            _log.exception("bundle failed to load", bundle=version)
            problem = Problem(version, "error", f"loading failed: {type(error).__name__}; see log", now_ms())
        else:
            _log.info("bundle loaded", bundle=version, duration_s=round(time.monotonic() - started, 3))
            opened = OpenBundle(version, bundle, now_ms())
            self._events.put(lambda: self._loaded(opened))
            return
        self._events.put(lambda: self._refused(problem))

    def _loaded(self, opened: OpenBundle[T]) -> None:
        self._metrics.loads.inc()
        self._bundles[opened.version] = opened
        self._step(swap_policy.LoadFinished(opened.version))

    def _refused(self, problem: Problem) -> None:
        self._metrics.refusals.labels(problem.gate).inc()
        self._note(problem)
        self._step(swap_policy.LoadRefused(problem.version))

    def _note(self, problem: Problem) -> None:
        old = self._problems.get(problem.version)
        if old is not None and (old.gate, old.message) == (problem.gate, problem.message) and not problem.version:
            return  # each poll meets the same fault of the store: log it once
        self._problems[problem.version] = problem
        _log.error(
            "bundle refused" if problem.version else "nothing to load" if problem.gate == "live" else "store fault",
            bundle=problem.version,
            gate=problem.gate,
            message=problem.message,
            still_serving=self._state.open[:1],
        )

    def _publish(self) -> None:
        snapshot = Snapshot(
            tuple(self._bundles[version] for version in self._state.open),
            self._live_version,
            self._state.loading,
            tuple(self._problems.values()),
        )
        if snapshot != self._snapshot:
            self._snapshot = snapshot  # one assignment, so that a reader sees the old snapshot or the new one
            self._metrics.open_bundles.set(len(snapshot.open))
            self._metrics.live_bundle.info({"bundle_version": snapshot.open[0].version if snapshot.open else ""})
            self._metrics.wanted_bundle.info({"bundle_version": snapshot.live_version})
            self._metrics.loading_bundle.info({"bundle_version": snapshot.loading_version})
            self._on_change(snapshot)
