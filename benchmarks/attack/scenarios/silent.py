"""Callers that open streams and say nothing, and callers that freeze in the middle of a message (issue 17, 1).

Beside them run a load at half of the capacity that the same run measures, and the probes of an operator. The load
without the attack is measured again before each variant.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterator

from benchmarks.attack.callers import run
from benchmarks.attack.calls import Calls, Load
from benchmarks.attack.probes import Probes
from benchmarks.attack.rows import Row, share, tail_limit
from benchmarks.attack.services import (
    ANN,
    DRAIN_S,
    EMBED,
    HEALTH,
    METHOD,
    QUERY_TOWER,
    SEARCH,
    STATUS,
    Setup,
)
from benchmarks.attack.streams import Silence, SilentCallers
from testbed.services import Replica

NAME = "silent"
_NOISE_MS = 5.0
_MESSAGE_BYTES, _SMALL_MESSAGE_BYTES = 12 << 20, 3 << 20
_EXIT_GRACE_S = 1.0


def attack(setup: Setup) -> Iterator[Row]:
    """Yields the rows of the silent callers: those of the ANN service, and in full those of the query tower too."""
    for service in (ANN, QUERY_TOWER) if setup.is_full else (ANN,):
        with setup.serving(service) as replica:
            capacity = run(_load(setup, replica, 2.0, None))[0].goodput(2.0)
            seconds = 60.0 if setup.is_full else 3.0
            for name, silences in variants(setup, replica).items():
                yield from _judge(setup, replica, f"{service}, {name}", silences, capacity / 2, seconds)
            everything = [silence for silences in variants(setup, replica).values() for silence in silences]
            yield _end(replica, service, everything)


def variants(setup: Setup, replica: Replica) -> dict[str, list[Silence]]:
    """Returns the streams of each variant of the attack, by name."""
    streams, connections, frozen = (1000, 100, 50) if setup.is_full else (200, 20, 10)
    work = SEARCH if replica.service == ANN else EMBED
    methods = [work, HEALTH, STATUS[replica.service]]
    made: dict[str, list[Silence]] = {}
    for token, who in (("", "without token"), (setup.token, "with token")):
        for count in (1, connections):
            name = f"{streams:,} streams {who} over {count} connection{'s' * (count > 1)}"
            made[name] = [Silence(replica.address, methods, streams, count, token)]
        for size in (_MESSAGE_BYTES, _SMALL_MESSAGE_BYTES) if token else (_MESSAGE_BYTES,):
            name = f"{frozen} frozen senders of {size >> 20} MiB {who}"
            made[name] = [Silence(replica.address, [work], frozen, frozen, token, size)]
    return made


def _load(setup: Setup, replica: Replica, seconds: float, rate: float | None) -> Load:
    work = setup.requests.work(replica.service == ANN, 1)
    return Load(replica.address, METHOD[replica.service], work, seconds, 1.0, rate, 8, setup.metadata)


def _judge(
    setup: Setup, replica: Replica, name: str, silences: list[Silence], rate: float, seconds: float
) -> Iterator[Row]:
    alone = run(_load(setup, replica, min(seconds, 20.0), rate))[0]
    with SilentCallers(*silences) as silent, Probes(setup, replica) as probes:
        beside = run(_load(setup, replica, seconds, rate))[0]
        note = f"{silent.opened} streams opened, {silent.ended} ended by the service"
    yield Row(
        NAME, f"{name}: goodput beside, of alone", _answered_share(beside, alone), 95.0, "%", True, f"{rate:,.0f}/s"
    )
    limit = tail_limit(alone.percentile_ms(99), 1.5, _NOISE_MS)
    yield Row(NAME, f"{name}: p99 beside", beside.percentile_ms(99), limit, "ms", note=note)
    yield Row(NAME, f"{name}: slowest health.Check", probes.worst_ms("health"), 50.0, "ms")
    yield Row(NAME, f"{name}: slowest GetServingStatus", probes.worst_ms("status"), 1000.0, "ms")
    yield Row(NAME, f"{name}: slowest refusal of a missing token", probes.worst_ms("refusal"), 100.0, "ms")


def _answered_share(beside: Calls, alone: Calls) -> float:
    """Returns the share of calls answered in time during the attack, as a percentage of that share without it."""
    return share(float(beside.in_time.mean()) if len(beside.codes) else 0.0, float(alone.in_time.mean()))


def _end(replica: Replica, service: str, silences: list[Silence]) -> Row:
    """Returns the row of SIGTERM during all variants of the attack at once."""
    process = replica.process
    assert process is not None
    with SilentCallers(*silences):
        began = time.monotonic()
        process.terminate()
        try:
            code = process.wait(DRAIN_S + 5.0)
            took_s, note = time.monotonic() - began, f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, took_s, note = -1, math.inf, f"still running after {DRAIN_S + 5.0:g} s"
    figure = took_s if code == 0 else math.inf
    return Row(
        NAME,
        f"{service}, all of these at once: SIGTERM to exit code 0",
        figure,
        DRAIN_S + _EXIT_GRACE_S,
        "s",
        note=note,
    )
