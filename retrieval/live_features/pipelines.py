"""Sends commands to Redis from an event loop: few connections, many callers, a deadline for each.

```
run ─► circuit closed? ─► line ─► as many commands as wait, in one pipeline, once a connection is free ─► replies
```

What waits goes together, so that many callers cost Redis and this process little more than one. A lone caller waits for
nobody. A pipeline is not broken off when a caller gives up: a connection that is being made, or an answer that is a
little late, would otherwise be lost, and the next caller would have to begin anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection

from retrieval.live_features.circuit import Circuit
from retrieval.live_features.errors import FeatureStoreError, StoreUnavailable
from retrieval.live_features.replies import Command, is_of_one_record, is_unknown_script, to_error

CONNECTIONS = 4
"""Number of pipelines that are under way at the same time."""
_COMMANDS_A_PIPELINE = 64
_LONGEST_S = 2.0
"""Time after which a pipeline ends whose callers have all given up, in seconds."""


_FAIR_SHARE = 0.2
"""Least share of the timeout that a caller has to allow for its timeout to count as a failure of the store."""
_GRACE_TURNS = 5
"""Turns of the event loop in which an answer that is here already may still be read after a timeout."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """Commands of one caller, or a part of them, and the future of their replies."""

    commands: Sequence[Command]
    replies: asyncio.Future[list[Any]]


class Pipelines:
    """Pipelines to one Redis. Used by one event loop."""

    def __init__(self, options: Mapping[str, Any], timeout_s: float) -> None:
        """Prepares the connections; they are made when they are needed.

        Args:
            options: arguments of `redis.asyncio.Redis` that say where the server listens, and how to log in.
            timeout_s: time after which a caller gives up, in seconds.
        """
        self.circuit = Circuit()
        self._timeout_s = timeout_s
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
        self._connections = [pool.make_connection() for _ in range(CONNECTIONS)]
        self._idle = list(self._connections)
        self._line: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, commands: Sequence[Command], within_s: float) -> list[Any]:
        """Returns the reply to each command; an exception for a command that concerns keys of another kind.

        Args:
            commands: commands to run, in order. They may run although this raises.
            within_s: time that the caller allows, in seconds; the own timeout may be shorter.

        Raises:
            FeatureStoreError: Redis did not answer in time, cannot be reached, is full, or the circuit is open.
        """
        if not self.circuit.may_try():
            raise StoreUnavailable("the feature store has failed several times in a row")
        loop = asyncio.get_running_loop()
        parts = [
            _Waiting(commands[first : first + _COMMANDS_A_PIPELINE], loop.create_future())
            for first in range(0, len(commands), _COMMANDS_A_PIPELINE)
        ]
        self._line.extend(parts)
        self._send()
        timeout_s = min(self._timeout_s, within_s)
        timeout = loop.call_later(timeout_s, _give_up, [part.replies for part in parts], _GRACE_TURNS)
        try:
            replies = [reply for part in parts for reply in await part.replies]
        except TimeoutError:
            if within_s >= _FAIR_SHARE * self._timeout_s:
                self.circuit.failed()
            raise StoreUnavailable("the feature store did not answer in time") from None
        except StoreUnavailable:
            self.circuit.failed()
            raise
        except FeatureStoreError:
            self.circuit.succeeded()  # it did answer
            raise
        finally:
            timeout.cancel()
            for part in parts:
                if not part.replies.cancel() and not part.replies.cancelled():
                    part.replies.exception()  # or asyncio would complain that nobody looked at it
            while self._line and self._line[0].replies.done():
                self._line.popleft()
        self.circuit.succeeded()
        return replies

    async def close(self) -> None:
        """Ends what is under way, and closes the connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            await connection.disconnect(nowait=True)

    def _send(self) -> None:
        """Starts pipelines for what waits, as long as a connection is free."""
        while self._line and self._idle:
            taken: list[_Waiting] = []
            count = 0
            while self._line and count + len(self._line[0].commands) <= _COMMANDS_A_PIPELINE:
                waiting = self._line.popleft()
                if not waiting.replies.done():  # else its caller has given up
                    taken.append(waiting)
                    count += len(waiting.commands)
            if taken:
                task = asyncio.create_task(self._run(taken, self._idle.pop()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run(self, taken: Sequence[_Waiting], connection: AbstractConnection) -> None:
        try:
            await self._answer(taken, connection)
        finally:
            self._idle.append(connection)
            self._send()

    async def _answer(self, taken: Sequence[_Waiting], connection: AbstractConnection) -> None:
        """Sets the replies of what waits, or the error."""
        commands = [command for waiting in taken for command in waiting.commands]
        try:
            async with asyncio.timeout(_LONGEST_S):
                replies = await _execute(commands, connection)
        except (redis.RedisError, OSError, ValueError) as error:  # TimeoutError is an OSError
            for waiting in taken:
                if not waiting.replies.done():
                    waiting.replies.set_exception(self._to_error(error))
            return
        first = 0
        for waiting in taken:
            own = replies[first : first + len(waiting.commands)]
            first += len(waiting.commands)
            if waiting.replies.done():
                continue
            fault = next((r for r in own if isinstance(r, redis.RedisError) and not is_of_one_record(r)), None)
            if fault is None:
                waiting.replies.set_result(own)
            else:
                waiting.replies.set_exception(to_error(fault))

    def _to_error(self, error: redis.RedisError | OSError | ValueError) -> FeatureStoreError:
        if isinstance(error, ValueError):  # the password file
            return StoreUnavailable(str(error))
        return to_error(error)


async def _execute(commands: Sequence[Command], connection: AbstractConnection) -> list[Any]:
    """Returns the reply to each command; an exception for an error reply.

    Raises:
        redis.RedisError, OSError: the server cannot be reached, or does not let this client in.
    """
    try:
        replies = await _exchange(commands, connection)
    except NoConnection:  # the server was started anew since the last command, or has closed an idle connection
        await connection.disconnect(nowait=True)
        replies = await _exchange(commands, connection)
    unknown = [number for number, reply in enumerate(replies) if is_unknown_script(reply)]
    if unknown:
        again = await _exchange([commands[number] for number in unknown], connection, by_hash=False)
        for number, reply in zip(unknown, again, strict=True):
            replies[number] = reply
    return replies


async def _exchange(commands: Sequence[Command], connection: AbstractConnection, *, by_hash: bool = True) -> list[Any]:
    """Sends commands, and reads their replies. A connection that this leaves early is closed."""
    await connection.connect()
    words = [command.words(by_hash=by_hash) for command in commands]
    await connection.send_packed_command(connection.pack_commands(words), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
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
