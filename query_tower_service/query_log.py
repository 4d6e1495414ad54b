"""The query log: a sample of the answered queries as JSON lines, for replay with another bundle.

```
answering thread:  a share of the queries ─► line ─► backlog, or dropped if that is full
writing thread:    backlog ─► append to the file; at the size bound: rename file to file.1, replacing the previous one
```

A line is ``{"features": {"age": [24.0], "history": ["50", "181"]}}``: values as they were sent, always in a list, with
null for NaN. If the embedding depends on the time of the request and the query does not state it, the time of arrival
is added, so that a replay gives the same embedding; and so are the stored features that were used. Only features are
logged, never user ids, metadata, tokens or addresses of callers.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import stat
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter

from retrieval.bundle.features.event_kinds import REQUEST_TIME
from two_tower.query.v1 import query_tower_service_pb2 as pb

_MAX_BACKLOG_BYTES = 4 << 20
"""Largest size of the lines that wait for a slow disk, in bytes."""

_LONGEST_SKIP = 1e18
"""Upper bound of the number of queries between two sampled ones; keeps it finite for tiny shares."""

_log = structlog.get_logger("query_log")


class QueryLog:
    """Records a share of the queries. Safe for several threads; never blocks or fails a caller.

    Lines that cannot be written are dropped and counted; the first loss is logged.
    """

    def __init__(self, path: Path, share: float, max_bytes: int, registry: CollectorRegistry) -> None:
        """Checks that the folder exists; the file is opened with the first line.

        Args:
            path: file to write. Two processes must not share it: each would rotate the lines of the other.
            share: share of the queries to record, 0 to 1.
            max_bytes: largest size of the file, and of the previous file, in bytes.
            registry: Prometheus registry for the counters.

        Raises:
            ValueError: the folder does not exist, or the path exists and is not a regular file.
        """
        if not path.parent.is_dir():
            raise ValueError(f"query_log is {path}, and its folder does not exist; make it first")
        if path.exists() and not path.is_file():
            raise ValueError(f"query_log is {path}, which is not a regular file; name another one")
        self._path = path
        self._previous = path.with_name(f"{path.name}.1")
        self._share = share
        self._max_bytes = max_bytes
        self._lines = Counter("two_tower_query_log_lines", "Queries written to the query log.", registry=registry)
        self._drops = Counter(
            "two_tower_query_log_drops", "Sampled queries that the log lost.", ["reason"], registry=registry
        )
        self._lock = threading.Lock()
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._skip = self._draw_skip()
        self._has_warned = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="query-log")

    def record(
        self,
        queries: Sequence[pb.Query],
        now_s: float | None = None,
        stored: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        """Records a share of an answered batch.

        Args:
            queries: queries of the batch.
            now_s: time of the request in seconds since 1970, for queries that do not state it. None: the embeddings do
                not depend on it.
            stored: values by feature name that the feature store added, by the number of the query; None: none.
        """
        for row in self._sample(len(queries)):
            line = to_line(queries[row], now_s, stored.get(row, {}) if stored else {})
            with self._lock:
                fits = self._backlog_bytes + len(line) <= _MAX_BACKLOG_BYTES
                first = fits and not self._backlog
                if fits:
                    self._backlog.append(line)
                    self._backlog_bytes += len(line)
            if first:
                self._wake()
            elif not fits:
                self._drops.labels("backlog").inc()

    def close(self) -> None:
        """Writes the backlog. Later queries are not recorded."""
        self._writer.shutdown(wait=True)

    def _wake(self) -> None:
        try:
            self._writer.submit(self._write_backlog)
        except RuntimeError:  # closed
            with self._lock:
                self._drops.labels("closed").inc(len(self._backlog))
                self._backlog, self._backlog_bytes = [], 0

    def _sample(self, count: int) -> list[int]:
        """Returns the rows to record in a batch of `count` queries."""
        if self._share == 0:
            return []
        rows: list[int] = []
        with self._lock:
            row = self._skip
            while row < count:
                rows.append(row)
                row += 1 + self._draw_skip()
            self._skip = row - count
        return rows

    def _draw_skip(self) -> int:
        """Returns the number of queries to skip before the next sampled one."""
        # It is geometrically distributed, so one draw for each line suffices instead of one for each query.
        if self._share in (0, 1):
            return 0
        return int(min(math.log(1.0 - random.random()) / math.log1p(-self._share), _LONGEST_SKIP))

    def _write_backlog(self) -> None:
        with self._lock:
            lines, self._backlog = self._backlog, []
            self._backlog_bytes = 0
        written = 0
        try:
            while written < len(lines):
                written += self._append(lines[written:])
        except OSError as error:
            self._drops.labels("disk").inc(len(lines) - written)
            if not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "query log cannot be written; further losses are only counted", path=str(self._path), why=str(error)
                )

    def _append(self, lines: Sequence[bytes]) -> int:
        """Appends as many of the first lines as fit into the file, and returns their number.

        If not even the first line fits, the file is rotated and 0 is returned. If the first line is larger than a whole
        file may be, that line is dropped and counted, and 1 is returned.

        Args:
            lines: lines to append, in order, at least one.

        Raises:
            OSError: the file cannot be written.
        """
        if len(lines[0]) > self._max_bytes:
            self._drops.labels("size").inc()
            return 1
        # Opened each time, so that a file that was moved or removed is created again.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        try:
            size_bytes = _check_file(descriptor, self._path)
            end_bytes, count = size_bytes, 0
            while count < len(lines) and end_bytes + len(lines[count]) <= self._max_bytes:
                end_bytes += len(lines[count])
                count += 1
            if count == 0:
                os.replace(self._path, self._previous)
            elif os.write(descriptor, b"".join(lines[:count])) < end_bytes - size_bytes:
                # The part that was written would corrupt the next line.
                os.ftruncate(descriptor, size_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        finally:
            os.close(descriptor)
        self._lines.inc(count)
        return count


def to_line(query: pb.Query, now_s: float | None = None, stored: Mapping[str, Any] | None = None) -> bytes:
    """Returns the features of a query as a line of ASCII JSON, sorted by name; see `features_of`."""
    return json.dumps({"features": features_of(query, now_s, stored)}, separators=(",", ":")).encode("ascii") + b"\n"


def features_of(
    query: pb.Query, now_s: float | None = None, stored: Mapping[str, Any] | None = None
) -> dict[str, list[Any]]:
    """Returns the values of a query by feature name, sorted by name; None for NaN.

    Args:
        query: query to record.
        now_s: time of the request in seconds since 1970, added if the query does not state it. None: not added.
        stored: values by feature name that the feature store added to the query.
    """
    features: dict[str, list[Any]] = {} if now_s is None else {REQUEST_TIME: [now_s]}
    for name, value in (stored or {}).items():
        if value is not None:
            features[name] = [
                None if each != each else each for each in (value if isinstance(value, list) else [value])
            ]
    for name, values in query.features.items():
        kind = values.WhichOneof("kind")
        given: list[Any] = list(getattr(values, kind).values) if kind else []
        if given or name not in features:
            # NaN becomes null, because JSON has no NaN.
            features[name] = [None if value != value else value for value in given] if kind == "floats" else given
    return dict(sorted(features.items()))


def _check_file(descriptor: int, path: Path) -> int:
    """Returns the size of a regular file in bytes, and makes it readable by its owner alone."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    if stat.S_IMODE(status.st_mode) != 0o600:
        os.fchmod(descriptor, 0o600)
    return status.st_size
