"""Hedged requests: a call that is slow to answer is sent to further replicas too, and the first answer counts.

A replica that is frozen, or that can no longer be reached, keeps a call until its deadline. So the call is sent again
after each `HEDGE_SHARE` of its timeout, as long as no replica has answered. Round robin sends it to the next replica.
The other attempts are cancelled when the first answer has come. gRPC counts them as failures, and for some seconds
sends no calls to a replica that gives nothing else; see `two_tower_client.rpc.channel`.

Source: Dean and Barroso, "The Tail at Scale" (2013), section "Within Request Short-Term Adaptations".
"""

import asyncio
import queue
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from two_tower_client.rpc.call import Call

Request = TypeVar("Request")
Response = TypeVar("Response")

HEDGE_SHARE = 0.125
"""Share of the timeout of a call after which it is sent to one more replica."""
SHORTEST_INTERVAL_S = 0.05
"""Least time before a call is sent to one more replica, in seconds."""

# gRPC's callables are generic in its type stubs only, so their annotations below are strings.


def first_answer(
    method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request, call: Call, admit: Callable[[], bool]
) -> Response:
    """Sends a call, to one more replica after each interval without an answer, and returns the first answer.

    An attempt that fails while others are in flight is ignored.

    Args:
        method: Method to call.
        request: Request of every attempt.
        call: Metadata and deadline of every attempt.
        admit: Returns whether one more attempt may be sent, and counts it if so.

    Raises:
        grpc.RpcError: If no attempt was answered. The error is that of the attempt that failed last.
        ValueError: If the channel is closed.
    """
    attempts: list[grpc.Future[Response]] = []
    ended: queue.SimpleQueue[grpc.Future[Response]] = queue.SimpleQueue()

    def send() -> None:
        timeout_s = call.end_s - time.monotonic()
        attempt = method.future(request, timeout=timeout_s, metadata=call.metadata, wait_for_ready=call.waits)
        attempt.add_done_callback(ended.put)
        attempts.append(attempt)

    interval_s: float | None = _interval_s(call)
    failed = 0
    try:
        send()
        while True:
            try:
                attempt = ended.get(timeout=interval_s)
            except queue.Empty:
                if admit():
                    send()
                else:
                    interval_s = None
                continue
            if attempt.exception() is None or failed + 1 == len(attempts):
                return attempt.result()
            failed += 1
    finally:
        for attempt in attempts:
            attempt.cancel()  # changes nothing if it has ended


async def first_answer_async(
    method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
    request: Request,
    call: Call,
    admit: Callable[[], bool],
) -> Response:
    """Does what `first_answer` does, for asyncio."""
    in_flight = set[asyncio.Task[Response]]()

    def send() -> None:
        timeout_s = call.end_s - time.monotonic()
        attempt = method(request, timeout=timeout_s, metadata=call.metadata, wait_for_ready=call.waits)
        in_flight.add(asyncio.ensure_future(_answer(attempt)))

    interval_s: float | None = _interval_s(call)
    try:
        send()
        while True:
            ended, _ = await asyncio.wait(in_flight, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED)
            if not ended:
                if admit():
                    send()
                else:
                    interval_s = None
            for attempt in ended:
                in_flight.discard(attempt)
                if attempt.exception() is None or not in_flight:
                    return attempt.result()
    finally:
        for attempt in in_flight:
            attempt.cancel()


async def _answer(attempt: Awaitable[Response]) -> Response:
    return await attempt


def _interval_s(call: Call) -> float:
    return max(SHORTEST_INTERVAL_S, HEDGE_SHARE * call.remaining_s)
