"""Threads that write events, and send a batch again, with the same event ids, until a replica has taken it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import psutil

from benchmarks.services.live_features.world import World
from two_tower.query.v1 import query_tower_service_pb2 as pb

_TIMEOUT_S = 5.0
_PAUSE_S = 0.05
_LONGEST_S = 300.0
"""Time after which a batch that no replica takes ends the benchmark."""

_RETRIED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}


@dataclass
class Written:
    """What the replicas said.

    Attributes:
        recorded: Events that were added.
        already_there: Events whose id was there already.
        too_old: Events that a full history dropped.
        retries: Number of calls that were sent again, by code.
        seconds: Time from the first call to the last answer, in seconds.
        cpu_s: Processor time of Redis, the replicas and the writers meanwhile, in seconds, if none of them was killed.
    """

    recorded: int = 0
    already_there: int = 0
    too_old: int = 0
    retries: Counter[str] = field(default_factory=Counter[str])
    seconds: float = 0.0
    cpu_s: float = 0.0


def write(world: World, batches: Iterator[pb.RecordEventsRequest], writer_count: int) -> Written:
    """Sends all batches, and returns what the replicas said.

    Args:
        world: Replicas, of which each writer calls one until it fails.
        batches: Requests, taken by the writers in turns.
        writer_count: Number of writers, each with one call in flight.

    Raises:
        grpc.RpcError: A batch was refused with a code for which a retry is not safe, or for too long.
    """
    taking, lock, written = threading.Lock(), threading.Lock(), Written()

    def take() -> pb.RecordEventsRequest | None:
        with taking:
            return next(batches, None)

    def run(number: int) -> None:
        with world.stubs() as stubs:
            replicas = itertools.cycle(stubs[number % 2 :] + stubs[: number % 2])
            stub = next(replicas)
            while (request := take()) is not None:
                gives_up_at = time.monotonic() + _LONGEST_S
                while True:
                    try:
                        response = stub.RecordEvents(request, timeout=_TIMEOUT_S)
                        break
                    except grpc.RpcError as error:
                        code = error.code()  # type: ignore[attr-defined]
                        if code not in _RETRIED or time.monotonic() > gives_up_at:
                            raise
                        with lock:
                            written.retries[code.name] += 1
                        stub = next(replicas)
                        time.sleep(_PAUSE_S)
                with lock:
                    written.recorded += response.recorded
                    written.already_there += response.already_there
                    written.too_old += response.too_old

    began, cpu_began_s = time.monotonic(), cpu_s()
    with ThreadPoolExecutor(writer_count, "writer") as threads:
        for done in [threads.submit(run, number) for number in range(writer_count)]:
            done.result()
    written.seconds, written.cpu_s = time.monotonic() - began, cpu_s() - cpu_began_s
    return written


def cpu_s() -> float:
    """Returns the processor time of this process and of its children that run, in seconds."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)
