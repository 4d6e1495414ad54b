"""How soon a write is seen, how many there are a second, and what a lookup adds to a call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.attack.rows import Row
from benchmarks.services.live_features.world import FIRST_S, SYNC_EVERY_SECOND, World, to_event
from benchmarks.services.live_features.writers import cpu_s, write
from retrieval.live_features.bulk import BulkWriter
from retrieval.live_features.records import Event, StoreLimits
from two_tower.query.v1 import query_tower_service_pb2 as pb

_TIMEOUT_S, _LONGEST_S = 10.0, 120.0
_LATE_LIMIT = 1.0
"""Share of the lookups that may be given up on a machine that other work keeps busy, in percent."""
_WRITERS = 4
_HISTORY = 50
_BLOCKS = 10
_USERS = 500


def judge_visibility(world: World, count: int) -> Iterator[Row]:
    """Yields the row of events that are recorded at one replica, and have to be in the next answer of the other one."""
    missed = late = 0
    times_ms = list[float]()
    with world.stubs() as stubs:
        for number in range(count):
            user, writer, reader = f"r{number % 97}", stubs[number % 2], stubs[1 - number % 2]
            event = to_event(user, number, number)
            began = time.perf_counter()
            writer.RecordEvents(pb.RecordEventsRequest(events=[event]), timeout=_TIMEOUT_S)
            request = pb.EmbedQueriesRequest(queries=[pb.Query(user_id=user)], return_histories=True)
            answer = reader.EmbedQueries(request, timeout=_TIMEOUT_S)
            times_ms.append(1e3 * (time.perf_counter() - began))
            history = answer.histories[0].item_ids
            is_late = answer.stored_features[0] == pb.STORED_FEATURES_UNAVAILABLE
            late += is_late
            missed += not is_late and list(history[-1:]) != [event.item_id]
    note = f"{count:,} events, each in the next call of the other replica; both calls took {np.median(times_ms):.1f} ms"
    yield Row("read your writes", "events that the next answer lacked", missed, 0, "", note=note)
    yield _given_up("read your writes", late, count)


def _given_up(part: str, late: int, count: int) -> Row:
    """Returns the row of lookups that Redis did not answer in time, which the answers say."""
    note = f"of {count:,}; after --features-timeout-s a lookup is given up, and the answer says so"
    return Row(part, "lookups that were given up", 100 * late / count, _LATE_LIMIT, "%", note=note)


def judge_rate(world: World, sync: str, batch: int, event_count: int, floor: float) -> Iterator[Row]:
    """Yields the row of events a second, without kills.

    Args:
        world: Redis and replicas, which share the cores with the writers.
        sync: When Redis makes sure that its log is on disk.
        batch: Number of events of a call.
        event_count: Number of events.
        floor: Smallest rate that keeps the promise, in events a second; 0: no promise.
    """
    users = max(1, event_count // 50)
    requests = [
        pb.RecordEventsRequest(
            events=[
                to_event(f"{sync}{batch}-{number % users}", number, number // users)
                for number in range(first, min(first + batch, event_count))
            ]
        )
        for first in range(0, event_count, batch)
    ]
    written = write(world, iter(requests), _WRITERS)
    if written.recorded + written.already_there != event_count:
        raise RuntimeError(f"{written} of {event_count} events")
    note = f"{event_count:,} events, {_WRITERS} writers, appendfsync {sync}; no call failed"
    if written.retries:
        note = note.replace("no call failed", f"{written.retries.total()} calls were sent again")
    rate, a_core = event_count / written.seconds, event_count / written.cpu_s
    note += f"; {1e6 * written.cpu_s / event_count:.0f} us of CPU an event, so two free cores do {2 * a_core:,.0f}/s"
    yield Row("rate", f"events a second, {batch} a call", rate, floor, "/s", is_floor=True, note=note)


def judge_stream(world: World, batch: int, event_count: int, floor: float) -> Iterator[Row]:
    """Yields the row of events a second by streams, one for each replica; see `judge_rate`."""
    users = max(1, event_count // 50)
    messages = [
        pb.RecordEventsStreamRequest(
            events=[to_event(f"stream-{number % users}", number, number // users) for number in numbers]
        )
        for numbers in (range(first, min(first + batch, event_count)) for first in range(0, event_count, batch))
    ]
    with world.stubs() as stubs:
        began, cpu_began_s = time.perf_counter(), cpu_s()
        calls = [
            stub.RecordEventsStream.future(iter(messages[number :: len(stubs)]), timeout=_LONGEST_S)
            for number, stub in enumerate(stubs)
        ]
        recorded = sum(call.result().recorded for call in calls)
        rate = event_count / (time.perf_counter() - began)
        used_s = cpu_s() - cpu_began_s
    if recorded != event_count:
        raise RuntimeError(f"{recorded} of {event_count} events were recorded")
    note = f"{event_count:,} events, {len(calls)} streams, appendfsync {SYNC_EVERY_SECOND}"
    note += (
        f"; {1e6 * used_s / event_count:.0f} us of CPU an event, so two free cores do {2 * event_count / used_s:,.0f}/s"
    )
    yield Row("rate", f"events a second, streams of {batch} a message", rate, floor, "/s", is_floor=True, note=note)


def judge_latency(world: World, items: Sequence[str], rounds: int, median_ms: float, tail_ms: float) -> Iterator[Row]:
    """Yields what the lookup adds to the time of a call of one query: by user id, and with the features, in turns.

    Args:
        world: Redis and replicas.
        items: Ids of items that the model knows.
        rounds: Number of pairs of calls.
        median_ms: Largest difference of the medians that keeps the promise, in ms: the median over blocks of calls.
        tail_ms: Largest difference of the 99th percentiles that keeps the promise, in ms; again the median over blocks.
    """
    generator = np.random.default_rng(2)
    requests: list[dict[str, pb.EmbedQueriesRequest]] = []
    with BulkWriter(world.redis.url, StoreLimits(max_events=world.max_events)) as writer:
        for number in range(_USERS):
            user, age = f"l{number}", float(generator.integers(18, 80))
            history = [items[row] for row in generator.integers(0, len(items), _HISTORY)]
            events = [Event(f"e{at:03}", user, item, float(FIRST_S + at)) for at, item in enumerate(history)]
            writer.put(user, {"age": [age]}, events)
            whole = pb.Query()
            whole.features["age"].floats.values.append(age)
            whole.features["history"].strings.values.extend(history)
            requests.append(
                {
                    "features": pb.EmbedQueriesRequest(queries=[whole]),
                    "user id": pb.EmbedQueriesRequest(queries=[pb.Query(user_id=user)]),
                }
            )
    with world.stubs() as stubs:
        times, late = _in_turns(stubs[0], requests, rounds)
    figures = {name: np.percentile(of, [50, 99]).tolist() for name, of in times.items()}
    told = "; ".join(f"{name}: median {of[0]:.2f} ms, p99 {of[1]:.2f} ms" for name, of in figures.items())
    note = f"{rounds:,} calls of each, in turns, by one caller, {_HISTORY} events: {told}"
    # In each block both kinds meet the same other work of the machine.
    blocks = [np.array_split(np.array(times[name]), _BLOCKS) for name in ("user id", "features")]
    added = [
        np.subtract(np.percentile(one, [50, 99]), np.percentile(other, [50, 99]))
        for one, other in zip(*blocks, strict=True)
    ]
    median, tail = np.median(added, axis=0).tolist()
    yield Row("latency", "median added by the lookup", median, median_ms, "ms", note=note)
    yield Row("latency", "p99 added by the lookup", tail, tail_ms, "ms")
    yield _given_up("latency", late, rounds)


def _in_turns(
    stub: Any, requests: Sequence[Mapping[str, pb.EmbedQueriesRequest]], rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Returns the times of the calls of each kind in ms, and the number of lookups that did not answer in time.

    Raises:
        RuntimeError: The answers to both kinds of request differ.
    """
    times: dict[str, list[float]] = {name: [] for name in requests[0]}
    warm_up, late = len(requests), 0
    for number, pair in enumerate(itertools.islice(itertools.cycle(requests), warm_up + rounds)):
        found: list[bytes] = []
        for name in list(pair)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            answer = stub.EmbedQueries(pair[name], timeout=_TIMEOUT_S)
            if number >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - began))
            found.append(answer.embeddings[0].SerializeToString())
            late += list(answer.stored_features) == [pb.STORED_FEATURES_UNAVAILABLE]
        if found[0] != found[1] and not late:
            raise RuntimeError("a query by user id and the same query with its features have different embeddings")
    return times, late
