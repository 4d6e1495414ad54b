"""A shard on a node of a Ray cluster: it opens the versions that the front wants, and answers for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.shards.shard import Found, Shard
from retrieval.bundle.catalogue.parts import parts_of
from retrieval.bundle.errors import BundleError, BundleRefused
from retrieval.serving.runtime.logs import configure_logs
from retrieval.steps import run_to_end
from retrieval.store.location import open_store

_log = structlog.get_logger("shard")


@dataclass(frozen=True)
class Opened:
    """A version that the shard has open.

    Attributes:
        lexical_attributes: Names of the attributes that the lexical index reads; empty if there is none.
    """

    lexical_attributes: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A version that could not be opened.

    Attributes:
        gate: Name of the check that refused it; ``"store"`` if the store could not be read.
        message: What was wrong, what was expected, and what to do.
    """

    gate: str
    message: str


State = Opened | Refused | None
"""State of a version; None while it is being opened."""


@dataclass(eq=False)
class _Entry:
    """A version that the front wants.

    Attributes:
        request: Number of the front's request to open it; a larger one asks to try again.
        shard: The open shard; None if it is not open.
        refused: Why it was refused; None if it was not.
        retry_at: Time of the next try after a refusal, in seconds of the monotonic clock.
    """

    request: int
    shard: Shard | None = None
    refused: Refused | None = None
    retry_at: float = 0.0

    @property
    def state(self) -> State:
        """State of the version."""
        return self.refused if self.shard is None else Opened(self.shard.catalogue.lexical_attributes)


class RayShard:
    """What an actor runs. Ray starts it anew after a crash, elsewhere if its node is gone.

    It keeps no state that outlives it: the front tells it again and again which versions it wants open, and it opens
    those that are not. So a shard that was started anew has the same versions open again soon.
    """

    def __init__(self, config: AnnConfig, number: int) -> None:
        """Takes the settings of the service, and the number of the shard, from 0 on."""
        configure_logs(config.log_level, 0)
        self._number = number
        self._retry_after_s = config.retry_after_s
        self._store = open_store(config.store, _log.info)
        self._loader = CatalogueLoader(self._store, config)
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._turn = 0
        self._is_opening = False

    def keep(self, turn: int, wanted: Mapping[str, int]) -> dict[str, tuple[int, State]]:
        """Opens the versions that the front wants in a thread, drops all others.

        Args:
            turn: number that grows with each call of the front; a call that arrives late is ignored.
            wanted: versions, in the order in which to open them, and the number of the request to open each.

        Returns:
            For each version the number of the request, and the state.
        """
        with self._lock:
            if turn > self._turn:
                self._turn = turn
                old = self._entries
                self._entries = {
                    version: old[version] if version in old and old[version].request == request else _Entry(request)
                    for version, request in wanted.items()
                }
                for version, entry in self._entries.items():  # an open version stays open, whoever wants it
                    if entry.shard is None and version in old:
                        entry.shard = old[version].shard
            if not self._is_opening and self._next() is not None:
                self._is_opening = True
                threading.Thread(target=self._open_wanted, name="open-shard", daemon=True).start()
            return {version: (entry.request, entry.state) for version, entry in self._entries.items()}

    def search(self, version: str, body: bytes) -> bytes | None:
        """Returns the response to a request, see `Shard.search`; None if the version is not open."""
        shard = self._shard(version)
        return None if shard is None else run_to_end(shard.search(body))

    def find(self, version: str, item_ids: Sequence[str]) -> Found | None:
        """Returns the items of a list that this shard holds; None if the version is not open."""
        shard = self._shard(version)
        return None if shard is None else shard.find(item_ids)

    def _shard(self, version: str) -> Shard | None:
        entry = self._entries.get(version)
        return None if entry is None else entry.shard

    def _next(self) -> tuple[str, _Entry] | None:
        now = time.monotonic()
        for version, entry in self._entries.items():
            if entry.shard is None and (entry.refused is None or now >= entry.retry_at):
                return version, entry
        return None

    def _open_wanted(self) -> None:
        while True:
            with self._lock:
                found = self._next()
                self._is_opening = found is not None
                if found is None:
                    return
                beside = [version for version, entry in self._entries.items() if entry.shard is not None]
            version, entry = found
            self._store.keep((*beside, version))
            shard, refused = self._open(version, beside)
            with self._lock:
                entry.shard, entry.refused = shard, refused
                entry.retry_at = time.monotonic() + self._retry_after_s

    def _open(self, version: str, beside: Sequence[str]) -> tuple[Shard | None, Refused | None]:
        started = time.monotonic()
        try:
            part = parts_of(self._store.manifest(version))[self._number]
            [catalogue] = self._loader.open_parts(version, [part], beside)
        except BundleRefused as error:
            refused = Refused(error.gate, error.message)
        except BundleError as error:
            refused = Refused("store", str(error))
        except Exception as error:
            _log.exception("shard failed to open", bundle=version, shard=self._number)
            refused = Refused("error", f"opening failed: {type(error).__name__}: {error}")
        else:
            _log.info("shard open", bundle=version, shard=self._number, duration_s=round(time.monotonic() - started, 3))
            return Shard(catalogue), None
        _log.error("shard refused", bundle=version, shard=self._number, gate=refused.gate, message=refused.message)
        return None, refused
