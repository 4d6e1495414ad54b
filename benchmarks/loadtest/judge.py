"""Checks reports of ghz against thresholds; only pure functions."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Thresholds of one configuration, from ``thresholds.toml``. None: not checked.

    Attributes:
        of_limit: Lowest throughput, as a share of the throughput of the same servicer in process.
        p50_ms: Highest median latency, in milliseconds.
        p99_ms: Highest 99th percentile of the latency, in milliseconds.
        p99_of_p50: Highest ratio of the 99th percentile to the median.
        of: Name of the closed-loop configuration whose throughput `share` refers to. Empty: a closed loop.
        share: Load to send, as a share of the throughput of `of`; for a stepped load, that of the last step.
        swap: Whether another bundle is promoted during the run, and rolled back.
    """

    of_limit: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    p99_of_p50: float | None = None
    of: str = ""
    share: float | None = None
    swap: bool = False


@dataclass(frozen=True)
class Call:
    """One call of a load test.

    Attributes:
        began_s: Start of the call, in seconds after the start of the first one.
        latency_ms: Latency in milliseconds.
        status: Name of its gRPC status, for instance ``OK``.
    """

    began_s: float
    latency_ms: float
    status: str


@dataclass(frozen=True)
class Outcome:
    """Result of one configuration.

    Attributes:
        name: Name of the configuration.
        calls: All calls of the run, in the order in which they ended.
        rate: Calls per second.
        limit: Requests per second of the same servicer in process; None if it was not measured.
        misses: Sentence for each threshold that was missed; empty if the configuration passed.
    """

    name: str
    calls: Sequence[Call]
    rate: float
    limit: float | None
    misses: tuple[str, ...]


def read_thresholds(path: Path) -> dict[str, Threshold]:
    """Returns the thresholds in a TOML file by name of the configuration, in the order of the file.

    Raises:
        ValueError: a key is unknown, a value has the wrong type, or `of` does not name an earlier configuration.
    """
    known = {field.name for field in fields(Threshold)}
    thresholds: dict[str, Threshold] = {}
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        unknown = sorted(table.keys() - known)
        if unknown:
            raise ValueError(
                f"{path.name}: {name}: no threshold is named {', '.join(unknown)}; there are {sorted(known)}"
            )
        threshold = Threshold(**table)
        if (threshold.share is None) != (not threshold.of) or (threshold.of and threshold.of not in thresholds):
            raise ValueError(f"{path.name}: {name}: share and of belong together, and of names a table above it")
        thresholds[name] = threshold
    return thresholds


def read_calls(report: Mapping[str, Any]) -> list[Call]:
    """Returns the calls in a JSON report of ghz, in the order in which they ended.

    The summary in the report has too few percentiles, so each call is read.
    """
    calls = [
        (datetime.fromisoformat(_microseconds(each["timestamp"])).timestamp(), each["latency"] / 1e6, each["status"])
        for each in report.get("details") or ()
    ]
    # ghz records the time at which a call ended.
    begins = [ended - latency_ms / 1e3 for ended, latency_ms, _ in calls]
    first = min(begins, default=0.0)
    return [Call(began - first, ms, status) for began, (_, ms, status) in zip(begins, calls, strict=True)]


def judge(
    name: str, report: Mapping[str, Any], threshold: Threshold, limit: float | None, asked_for: float | None = None
) -> Outcome:
    """Returns the outcome of a configuration: its calls, and the thresholds that it missed.

    Args:
        name: name of the configuration.
        report: JSON report of ghz, which counts failed calls too.
        threshold: thresholds of the configuration.
        limit: requests per second of the servicer in process; None if it was not measured.
        asked_for: calls per second that ghz had to send; None for a closed loop.
    """
    calls = read_calls(report)
    rate = float(report["rps"])
    misses: list[str] = []
    if not calls:
        return Outcome(name, calls, rate, limit, ("no call was made",))
    failed = [call.status for call in calls if call.status != "OK"]
    if failed:
        misses.append(f"{len(failed)} of {len(calls)} calls failed: {', '.join(sorted(set(failed)))}")
    p50, p99 = percentile(calls, 0.5), percentile(calls, 0.99)
    for what, seen, allowed in (("p50", p50, threshold.p50_ms), ("p99", p99, threshold.p99_ms)):
        if allowed is not None and seen > allowed:
            misses.append(f"{what} {seen:.1f} ms, at most {allowed:g}")
    if threshold.p99_of_p50 is not None and p99 > threshold.p99_of_p50 * p50:
        misses.append(f"p99 is {p99 / p50:.1f} x the median, at most {threshold.p99_of_p50:g}")
    if threshold.of_limit is not None and limit is not None and rate < threshold.of_limit * limit:
        misses.append(f"{rate / limit:.3f} of the in-process limit, at least {threshold.of_limit:g}")
    if asked_for is not None and rate < 0.8 * asked_for:
        misses.append(f"{rate:.0f} calls a second where {asked_for:.0f} were offered")
    return Outcome(name, calls, rate, limit, tuple(misses))


def percentile(calls: Sequence[Call], share: float) -> float:
    """Returns a percentile of the latencies in milliseconds, by the nearest-rank method.

    Args:
        calls: calls, at least one.
        share: percentile as a share, for instance 0.99.
    """
    ordered = sorted(call.latency_ms for call in calls)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def steps(calls: Sequence[Call], step_s: float) -> list[tuple[float, float, float]]:
    """Returns for each step of a stepped load the calls per second, and p50 and p99 in milliseconds.

    Args:
        calls: calls of the whole run. Those that began after the last full step are left out.
        step_s: length of a step, in seconds.
    """
    groups: dict[int, list[Call]] = {}
    for call in calls:
        groups.setdefault(int(call.began_s / step_s), []).append(call)
    whole = max((call.began_s for call in calls), default=0.0) / step_s
    return [
        (len(group) / step_s, percentile(group, 0.5), percentile(group, 0.99))
        for number, group in sorted(groups.items())
        if number + 0.9 <= whole
    ]


def to_table(outcomes: Sequence[Outcome]) -> str:
    """Returns a text table with one line for each outcome."""
    rows = [("configuration", "calls", "calls/s", "of limit", "p50 ms", "p95 ms", "p99 ms", "verdict")]
    for each in outcomes:
        cells = [f"{percentile(each.calls, s):.1f}" if each.calls else "-" for s in (0.5, 0.95, 0.99)]
        share = f"{each.rate / each.limit:.3f}" if each.limit else "-"
        verdict = "; ".join(each.misses) or "ok"
        rows.append((each.name, f"{len(each.calls):,}", f"{each.rate:,.0f}", share, *cells, verdict))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:7], widths[1:], strict=True)), row[7]])
        for row in rows
    ]
    return "\n".join(lines)


def _microseconds(timestamp: str) -> str:
    # Go writes nanoseconds, without trailing zeros.
    head, dot, tail = timestamp.partition(".")
    if not dot:
        return timestamp
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return f"{head}.{tail[:digits][:6].ljust(6, '0')}{tail[digits:]}"
