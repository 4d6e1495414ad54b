"""Sends commands to Redis from an event loop: few connections, many callers, a deadline for each.

```
                         ┌─ one command ───► as many as wait, in one pipeline ──────┐
run ─► circuit closed? ──┤                                                          ├─► replies
                         └─ several ───────► a few of one caller, then of the next ─┘
```

Single commands that wait go together, so that many callers cost Redis and this process little more than one. Large
calls have connections of their own and take turns, because Redis finishes what a connection sent before it turns to the
next: a single command waits for a few others, never for a large call. A lone caller waits for nobody. A pipeline is not
broken off when a caller gives up: a connection that is being made, or an answer that is a little late, would otherwise
be lost, and the next caller would have to begin anew.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection

from retrieval.live_features.circuit import Circuit
from retrieval.live_features.errors import FeatureStoreError, StoreUnavailable
from retrieval.live_features.replies import Command, is_of_one_record, is_unknown_script, to_error

CONNECTIONS_A_LINE = 2
"""Number of pipelines of single commands, and number of those of large calls, that are under way at the same time."""
_COMMANDS_A_PIPELINE = 64
_LONGEST_S = 2.0
"""Time after which a pipeline ends whose callers have all given up, in seconds."""
_FAIR_SHARE = 0.2
"""Least share of the timeout that a caller has to allow for its timeout to count as a failure of the store."""
_GRACE_TURNS = 5
"""Turns of the event loop in which an answer that is here already may still be read after a timeout."""


@dataclass(eq=False, slots=True)
class _Part:
    """Commands that go together, and the future of their replies."""

    commands: Sequence[Command]
    replies: asyncio.Future[list[Any]]


@dataclass(eq=False, slots=True)
class _Line:
    """Calls that wait, each with the parts of it that were not sent yet, and connections for them."""

    idle: list[AbstractConnection]
    waiting: deque[deque[_Part]] = field(default_factory=deque[deque[_Part]])

    def take(self, most: int) -> list[_Part]:
        """Returns what to send next: a part of each call in turn, of at most so many commands together."""
        taken: list[_Part] = []
        count = 0
        while parts := self.first():
            count += len(parts[0].commands)
            if taken and count > most:
                break
            taken.append(parts.popleft())
            self.waiting.rotate(-1)
        return taken

    def first(self) -> deque[_Part] | None:
        """Returns what the first call waits for; None if no call waits. Drops that of callers that have given up."""
        while self.waiting:
            parts = self.waiting[0]
            while parts and parts[0].replies.done():
                parts.popleft()
            if parts:
                return parts
            self.waiting.popleft()
        return None


class Pipelines:
    """Pipelines to one Redis. Used by one event loop."""

    def __init__(self, options: Mapping[str, Any], timeout_s: float, commands_a_turn: int) -> None:
        """Prepares the connections; they are made when they are needed.

        Args:
            options: arguments of `redis.asyncio.Redis` that say where the server listens, and how to log in.
            timeout_s: time after which a caller gives up, in seconds.
            commands_a_turn: number of commands of a large call that are sent before others have their turn, 1 to 64.
        """
        self.circuit = Circuit()
        self._timeout_s = timeout_s
        self._commands_a_turn = commands_a_turn
        self._heard_at = -math.inf
        # The connections of redis are used without its pool and its pipelines, which cost as much CPU time again. They
        # have no timeout, because `_run` has one.
        pool = redis.asyncio.Redis(
            **options,
            protocol=2,
            driver_info=None,
            socket_timeout=None,
            socket_connect_timeout=_LONGEST_S,
            retry=Retry(NoBackoff(), 0),
        ).connection_pool
        self._connections = [pool.make_connection() for _ in range(2 * CONNECTIONS_A_LINE)]
        self._single = _Line(self._connections[:CONNECTIONS_A_LINE])
        self._large = _Line(self._connections[CONNECTIONS_A_LINE:])
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, commands: Sequence[Command], within_s: float) -> list[Any]:
        """Returns the reply to each command.

        In place of a reply is a redis.ResponseError for a command that concerns keys of another kind, and a
        FeatureStoreError for one that Redis did not answer, if it answered others.

        Args:
            commands: commands to run, in order. They may run although this raises.
            within_s: time that the caller allows, in seconds; the own timeout may be shorter.

        Raises:
            FeatureStoreError: Redis did not answer any command in time, cannot be reached, is full, or the circuit is
                open.
        """
        if not self.circuit.may_try():
            raise StoreUnavailable("the feature store has failed several times in a row")
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        size = self._commands_a_turn
        parts = [_Part(commands[first : first + size], loop.create_future()) for first in range(0, len(commands), size)]
        line = self._single if len(commands) == 1 else self._large
        line.waiting.append(deque(parts))
        self._send(line)
        timeout_s = min(self._timeout_s, within_s)
        timeout = loop.call_later(timeout_s, _give_up, [part.replies for part in parts], _GRACE_TURNS)
        try:
            outcomes = await asyncio.gather(*(part.replies for part in parts), return_exceptions=True)
        finally:
            timeout.cancel()
            for part in parts:
                part.replies.cancel()
            line.first()
        faults = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        self._judge(faults, is_patient=within_s >= _FAIR_SHARE * self._timeout_s, started=started)
        if faults and len(faults) == len(parts):
            raise _to_error(faults[0])
        replies: list[Any] = []
        for part, outcome in zip(parts, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                replies += [_to_error(outcome)] * len(part.commands)
            else:
                replies += outcome
        return replies

    def _judge(self, faults: Sequence[BaseException], *, is_patient: bool, started: float) -> None:
        """Tells the circuit what a call says of Redis: while it answers anybody, a timeout says that it has much to do.

        Args:
            faults: errors of the parts of the call.
            is_patient: whether the call allowed enough time.
            started: time at which it began to wait, in seconds of the monotonic clock.
        """
        if any(isinstance(fault, StoreUnavailable) for fault in faults):
            self.circuit.failed()
        elif self._heard_at >= started or not all(isinstance(fault, TimeoutError) for fault in faults):
            self.circuit.succeeded()
        elif is_patient:
            self.circuit.failed()

    async def close(self) -> None:
        """Ends what is under way, and closes the connections."""
        while tasks := list(self._tasks):  # one that ends may start another, if calls wait
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # TLS says goodbye: a socket is closed some turns of the event loop later, or after `_LONGEST_S`.
        closing = (connection.disconnect() for connection in self._connections)
        await asyncio.gather(*closing, return_exceptions=True)

    def _send(self, line: _Line) -> None:
        """Starts pipelines for what waits, as long as a connection is free."""
        most = _COMMANDS_A_PIPELINE if line is self._single else self._commands_a_turn
        while line.idle and (taken := line.take(most)):
            task = asyncio.create_task(self._run(taken, line.idle.pop(), line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, taken: Sequence[_Part], connection: AbstractConnection, line: _Line) -> None:
        try:
            await self._answer(taken, connection)
        finally:
            line.idle.append(connection)
            self._send(line)

    async def _answer(self, taken: Sequence[_Part], connection: AbstractConnection) -> None:
        """Sets the replies of what waits, or the error."""
        commands = [command for part in taken for command in part.commands]
        try:
            async with asyncio.timeout(_LONGEST_S):
                replies = await _execute(commands, connection, self._heard)
        # TimeoutError is an OSError; the last ones come of the parser, of what is no answer of Redis
        except (redis.RedisError, OSError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            for part in taken:
                if not part.replies.done():
                    part.replies.set_exception(_to_error(error))
            return
        first = 0
        for part in taken:
            own = replies[first : first + len(part.commands)]
            first += len(part.commands)
            if part.replies.done():
                continue
            fault = next((r for r in own if isinstance(r, redis.RedisError) and not is_of_one_record(r)), None)
            if fault is None:
                part.replies.set_result(own)
            else:
                part.replies.set_exception(to_error(fault))

    def _heard(self) -> None:
        self._heard_at = time.monotonic()


def _to_error(error: BaseException) -> FeatureStoreError:
    if isinstance(error, FeatureStoreError):
        return error
    if isinstance(error, redis.RedisError | OSError):
        return to_error(error)
    return StoreUnavailable(str(error)[:300])  # of the password file, or of the parser


async def _execute(commands: Sequence[Command], connection: AbstractConnection, heard: Callable[[], None]) -> list[Any]:
    """Returns the reply to each command; an exception for an error reply.

    Raises:
        redis.RedisError, OSError: the server cannot be reached, or does not let this client in.
    """
    try:
        replies = await _exchange(commands, connection, heard)
    except NoConnection:  # the server was started anew since the last command, or has closed an idle connection
        await connection.disconnect(nowait=True)
        replies = await _exchange(commands, connection, heard)
    unknown = [number for number, reply in enumerate(replies) if is_unknown_script(reply)]
    if unknown:
        again = await _exchange([commands[number] for number in unknown], connection, heard, by_hash=False)
        for number, reply in zip(unknown, again, strict=True):
            replies[number] = reply
    return replies


async def _exchange(
    commands: Sequence[Command], connection: AbstractConnection, heard: Callable[[], None], *, by_hash: bool = True
) -> list[Any]:
    """Sends commands, and reads their replies; calls `heard` after each.

    A connection that this leaves early is closed.
    """
    await connection.connect()
    words = [command.words(by_hash=by_hash) for command in commands]
    await connection.send_packed_command(connection.pack_commands(words), check_health=False)
    replies: list[Any] = []
    for command in commands:
        try:
            reply = await connection.read_response()
            if not command.script.returns(reply):
                await connection.disconnect(nowait=True)
                raise redis.InvalidResponse("it is no Redis, or something between changes its answers")
            replies.append(reply)
            heard()
        except redis.ResponseError as error:
            replies.append(error)
    return replies


def _give_up(futures: Sequence[asyncio.Future[list[Any]]], turns: int) -> None:
    """Sets a TimeoutError in the futures that are not done after some turns of the event loop.

    If this process was late itself, because other work kept the event loop or the core, an answer that has arrived
    meanwhile counts.
    """
    if not all(future.done() for future in futures):
        if turns:
            asyncio.get_running_loop().call_soon(_give_up, futures, turns - 1)
            return
        for future in futures:
            if not future.done():
                future.set_exception(TimeoutError())
