"""Watches a store: polls its live pointer, and notices reads that fail or hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from retrieval.bundle.errors import StoreError
from retrieval.bundle.layout import LIVE
from retrieval.serving.bundles.open_bundle import Problem, now_ms
from retrieval.serving.runtime.config import ServerConfig
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.live import LivePointer
from retrieval.store.reads import Reads
from retrieval.store.store import BundleStore

PollResult = LivePointer | Exception | None
"""Result of one read of the live pointer; None where the store has no pointer, an exception where the read failed."""

_log = structlog.get_logger("store_watch")


class StoreWatch:
    """Polls the live pointer in a thread of its own, and knows the current problem of the store.

    A read of a dead mount never returns and cannot be ended, so only this thread and the loading threads read the
    store. They are daemon threads, which never keep the process alive. While a poll hangs there is no other poll; once
    it returns, polling goes on. Apart from `start` and `stop`, one thread calls the methods.

    Attributes:
        loads: Loads of bundles that are under way; a load registers itself.
        problem: Current problem of the store; None while its reads succeed.
        next_check_s: Time of the next call of `check`, in seconds of the monotonic clock.
    """

    def __init__(
        self, store: BundleStore, config: ServerConfig, metrics: Metrics, on_poll: Callable[[PollResult], None]
    ) -> None:
        """Prepares the polling thread; `start` starts it.

        Args:
            store: store to watch.
            config: interval and time limits.
            metrics: receives whether the store can be reached, its faults, and the time of the last read.
            on_poll: called by the polling thread with the result of each poll, which should reach `note`.
        """
        self._store = store
        self._config = config
        self._metrics = metrics
        self._on_poll = on_poll
        self._stopped = threading.Event()
        self._fault: Problem | None = None
        self._hang: Problem | None = None
        self._seen = False
        self.loads = Reads()
        self.next_check_s = time.monotonic()

    @property
    def problem(self) -> Problem | None:
        """Current problem of the store, a hung read before a failed poll; None while its reads succeed."""
        return self._hang or self._fault

    def start(self) -> None:
        """Starts to poll."""
        threading.Thread(target=self._poll, name="poll-store", daemon=True).start()

    def stop(self) -> None:
        """Ends polling, without waiting for a poll that hangs."""
        self._stopped.set()

    def _poll(self) -> None:
        while not self._stopped.is_set():
            result: PollResult
            try:
                result = self._store.live()
            except Exception as error:
                result = error
            self._on_poll(result)
            self._stopped.wait(self._config.poll_interval_s)

    def note(self, result: PollResult) -> None:
        """Updates the problem after a poll."""
        if isinstance(result, LivePointer):
            self._seen, self._fault = True, None
        elif result is None and self._seen:
            name = self._store.name
            self._fail("vanished", "store", f"{name}/{LIVE} is gone: is the store mounted? What is open stays open")
        elif result is None:
            self._fault = Problem("", "live", self._store.why_nothing_is_live(), now_ms())
        elif isinstance(result, StoreError):
            self._fail("unreadable", "store", str(result))
        else:
            _log.error("reading the live pointer failed", exc_info=result)
            self._fail("error", "error", f"watching the store failed: {type(result).__name__}; see log")
        if not isinstance(result, Exception):
            self._metrics.store_last_read.set(time.time())
        self._show()

    def check(self) -> bool:
        """Looks for reads and loads that hang, and returns whether the problem of the store changed."""
        before, found = self._hang, self._find_hang(time.monotonic())
        if found is None:
            self._hang = None
        elif before is None or before.message != found[1]:
            kind, message = found
            self._metrics.store_faults.labels(kind).inc()
            self._hang = Problem("", "store", message, now_ms())
        self._show()
        return self._hang is not before

    def _find_hang(self, now_s: float) -> tuple[str, str] | None:
        """Returns kind and message of a read or load that hangs; sets the time of the next check."""
        config = self._config
        self.next_check_s = now_s + min(config.store_timeout_s, config.load_timeout_s)
        for kind, reads, limit_s, sentence in (
            ("hung_read", self._store.reads, config.store_timeout_s, "reading {} has made no progress for {:g} s"),
            ("hung_load", self.loads, config.load_timeout_s, "loading {} has not ended for {:g} s"),
        ):
            oldest = reads.oldest()
            if oldest is None:
                continue
            if now_s - oldest.since_s >= limit_s:
                return kind, (
                    f"{sentence.format(oldest.what, limit_s)}: look whether the store answers; "
                    "open bundles go on answering, and the service goes on by itself once the read returns"
                )
            self.next_check_s = min(self.next_check_s, oldest.since_s + limit_s)
        return None

    def _fail(self, kind: str, gate: str, message: str) -> None:
        self._metrics.store_faults.labels(kind).inc()
        self._fault = Problem("", gate, message, now_ms())

    def _show(self) -> None:
        reachable = self._hang is None and (self._fault is None or self._fault.gate == "live")
        self._metrics.store_reachable.set(reachable)
