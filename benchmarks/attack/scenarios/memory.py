"""Calls that try to make the service keep memory (issue 17, 2).

Resident memory of the ANN service is compared with that after some ordinary traffic. The cache of filters is set to
8 MiB, because a cache that fills up to its setting is no fault: what counts is memory beyond it. An attack ends early
once the process has grown by 1 GiB, and the next one gets a new process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.attack.callers import Callers, run
from benchmarks.attack.calls import Load
from benchmarks.attack.probes import Memory
from benchmarks.attack.rows import Row
from benchmarks.attack.services import ANN, SEARCH, Setup
from testbed.services import Replica

NAME = "memory"
_GROWTH_MIB, _KEPT_MIB, _GIVEN_UP_MIB = 64.0, 16.0, 1024.0
_BODY_BYTES = 15 << 20
_CACHE_MIB = "8"
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Kind:
    """One kind of calls.

    Attributes:
        name: Name in the table.
        request: Serialized request; see `benchmarks.attack.callers.NUMBER`.
        has_token: Whether the calls carry the token.
        callers: Number of callers, each of which makes one call after another.
    """

    name: str
    request: bytes
    has_token: bool
    callers: int = 16


def attack(setup: Setup) -> Iterator[Row]:
    """Yields two rows for each kind of calls: largest growth, and growth that remains."""
    kinds = _kinds(setup)
    while kinds:
        with setup.serving(ANN, filter_cache_mib=_CACHE_MIB) as replica:
            run(Load(replica.address, SEARCH, setup.requests.searches(1), 1.0, 2.0, None, 16, setup.metadata))
            is_kept = True
            while kinds and is_kept:
                rows = _judge(setup, replica, kinds.pop(0))
                is_kept = all(row.is_kept for row in rows)
                yield from rows


def _kinds(setup: Setup) -> list[_Kind]:
    kinds = [
        _Kind("undecodable bytes without token", b"\xff\xff\xff", False, 64),
        _Kind("undecodable bytes with token", b"\xff\xff\xff", True, 64),
    ]
    if setup.requests.distinct_filter is not None:
        kinds.append(_Kind("filters of 10,000 distinct ids", setup.requests.distinct_filter, True))
    kinds += [_Kind(f"hostile filter, {n}", request, True, 4) for n, request in setup.requests.hostile_filters.items()]
    return [*kinds, _Kind("bodies of 15 MiB without token", bytes(_BODY_BYTES), False, 32)]


def _judge(setup: Setup, replica: Replica, kind: _Kind) -> list[Row]:
    calls, seconds, settle_s = (100_000, 1800.0, 10.0) if setup.is_full else (2_000, 4.0, 2.0)
    metadata = setup.metadata if kind.has_token else ()
    load = Load(
        replica.address,
        SEARCH,
        [kind.request],
        seconds,
        _TIMEOUT_S,
        None,
        kind.callers,
        metadata,
        calls,
        time.time_ns() % 10**6,
    )
    with Memory(replica) as memory:
        with Callers([[load]]) as callers:
            end = time.monotonic() + seconds + 12.0
            while not callers.have_ended and memory.growth_mib < _GIVEN_UP_MIB and time.monotonic() < end:
                time.sleep(0.05)
            if callers.have_ended:
                ended = callers.results()[0][0]
                note = f"{len(ended.codes):,} calls; one answer: {_short(ended.answer)}"
            else:
                note = f"ended early at +{memory.growth_mib:,.0f} MiB"
        kept_mib = memory.settle_mib(_KEPT_MIB, settle_s)
    return [
        Row(NAME, f"{kind.name}: largest growth", memory.growth_mib, _GROWTH_MIB, "MiB", note=note),
        Row(NAME, f"{kind.name}: growth {settle_s:g} s after the end", kept_mib, _KEPT_MIB, "MiB"),
    ]


def _short(answer: bytes | str) -> str:
    return "OK" if isinstance(answer, bytes) else answer.split(":")[0]
