"""A TCP relay that makes loopback behave like a long, lossy or broken way."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from types import TracebackType
from typing import Self

_RETRANSMISSION_S = 0.2
"""Delay of a chunk whose packet is lost: the shortest retransmission timeout of Linux, in seconds."""


class Link:
    """Context in which connections to `port` are relayed to another port of this host.

    Attributes:
        port: Port that the relay listens on.
        opened: Number of connections so far.
    """

    def __init__(self, target: int, delay_s: float = 0.0, loss: float = 0.0) -> None:
        """Prepares the relay.

        Args:
            target: port to relay to.
            delay_s: time that each byte takes one way, in seconds.
            loss: share of the chunks that arrive after a retransmission.
        """
        self._target, self._delay_s, self._loss = target, delay_s, loss
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._random = random.Random(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port: int = self._socket.getsockname()[1]
        self.opened = 0

    def __enter__(self) -> Self:
        """Starts the relay."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, sock=self._socket), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the relay and its connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._socket.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Passes bytes on, each after the delay, in order."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(waiting, sink))
        try:
            while data := await source.read(65_536):
                lost = _RETRANSMISSION_S if self._random.random() < self._loss else 0.0
                waiting.put_nowait((self._loop.time() + self._delay_s + lost, data))
        except OSError:
            pass
        finally:
            waiting.put_nowait((self._loop.time() + self._delay_s, b""))
            await sender

    async def _send(self, waiting: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not data or sink.is_closing():
                sink.close()
                return
            sink.write(data)
