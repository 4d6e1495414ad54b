"""Streams that are opened and never finished, in HTTP/2 written by hand, from a process of its own.

gRPC's own clients cannot be made silent in the middle of a message. A frame is 9 bytes (RFC 9113, section 4.1) and its
payload; headers are HPACK literals without indexing (RFC 7541, section 6.2.2).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SETTING, _INITIAL_WINDOW, _FRAME = 4, 65_535, 16_384

REOPEN_S = 2.0
"""Time after which a stream that the service has ended is opened again, in seconds."""
_START_S = 10.0


@dataclass(frozen=True)
class Silence:
    """Streams to hold open.

    Attributes:
        address: Address of the service, ``host:port``.
        methods: Paths of the methods, taken in turn.
        streams: Number of streams in total.
        connections: Number of connections that share them.
        token: Bearer token; empty: none is sent.
        message_bytes: Size of the message that each stream declares, of which it sends half, as far as flow control
            allows, before it stops to send and its connection stops to read. 0: nothing of a message is sent.
    """

    address: str
    methods: Sequence[str]
    streams: int
    connections: int
    token: str = ""
    message_bytes: int = 0


class SilentCallers:
    """Context in which a process holds streams open; a stream that the service ends is opened again."""

    def __init__(self, *silences: Silence) -> None:
        """Stores the streams to open; `__enter__` opens them."""
        self._silences = silences

    def __enter__(self) -> SilentCallers:
        """Starts the process, and waits until every stream was opened once, or for some seconds."""
        context = multiprocessing.get_context("forkserver")
        self._opened, self._ended = context.Value("i", 0), context.Value("i", 0)
        self._process: Any = context.Process(
            target=_hold, args=(self._silences, self._opened, self._ended), daemon=True
        )
        self._process.start()
        until = time.monotonic() + _START_S
        while self.opened < sum(silence.streams for silence in self._silences) and time.monotonic() < until:
            time.sleep(0.02)
        return self

    def __exit__(self, *exception: object) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.join()

    @property
    def opened(self) -> int:
        """Number of streams opened so far."""
        return self._opened.value

    @property
    def ended(self) -> int:
        """Number of streams that the service has ended so far."""
        return self._ended.value


def headers(method: str, authority: str, token: str) -> bytes:
    """Returns the header block of a gRPC call.

    Args:
        method: path of the method.
        authority: address of the service.
        token: bearer token; empty: none.
    """
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *([("authorization", f"Bearer {token}")] if token else []),
    ]
    return b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in fields)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns an HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(text: str) -> bytes:
    """Returns a string literal without Huffman coding: its length as an integer with a prefix of 7 bits, and bytes."""
    raw = text.encode()
    length, encoded = len(raw), bytearray()
    if length < 127:
        return bytes([length]) + raw
    encoded.append(127)
    length -= 127
    while length >= 128:
        encoded.append(length % 128 + 128)
        length //= 128
    return bytes([*encoded, length]) + raw


def _hold(silences: Sequence[Silence], opened: Any, ended: Any) -> None:
    async def hold() -> None:
        connections: list[_Connection] = []
        for silence in silences:
            for number in range(silence.connections):
                own = len(range(number, silence.streams, silence.connections))
                connections.append(_Connection(silence, number, own, opened, ended))
        await asyncio.gather(*(connection.run() for connection in connections))

    asyncio.run(hold())


class _Connection:
    """One connection and its streams."""

    def __init__(self, silence: Silence, number: int, streams: int, opened: Any, ended: Any) -> None:
        self._silence, self._number, self._streams = silence, number, streams
        self._opened, self._ended = opened, ended

    async def run(self) -> None:
        """Holds the streams open, and connects again when the service closes the connection."""
        while True:
            with suppress(OSError, EOFError, TimeoutError):
                await self._connect()
            await asyncio.sleep(REOPEN_S)

    async def _connect(self) -> None:
        host, port = self._silence.address.rsplit(":", 1)
        reader, self._writer = await asyncio.open_connection(host, int(port))
        self._next, self._live, self._sizes = 1, set[int](), dict[int, int]()
        self._window, self._windows, self._initial = _INITIAL_WINDOW, dict[int, int](), _INITIAL_WINDOW
        self._writer.write(_PREFACE + frame(_SETTINGS, 0, 0))
        for _ in range(self._streams):
            self._open()
        try:
            while not (self._silence.message_bytes and self._sizes and not any(self._sizes.values())):
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                self._on_frame(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload)
                if self._silence.message_bytes:
                    self._send()
            await asyncio.Event().wait()  # frozen: reads and sends nothing any more
        finally:
            self._writer.close()

    def _open(self) -> None:
        silence, stream, self._next = self._silence, self._next, self._next + 2
        method = silence.methods[(self._number + stream // 2) % len(silence.methods)]
        self._writer.write(frame(_HEADERS, _END_HEADERS, stream, headers(method, silence.address, silence.token)))
        if silence.message_bytes:
            self._writer.write(frame(_DATA, 0, stream, struct.pack(">BI", 0, silence.message_bytes)))
            self._sizes[stream] = silence.message_bytes // 2
            self._windows[stream] = self._initial - 5
            self._window -= 5
        self._live.add(stream)
        with self._opened.get_lock():
            self._opened.value += 1

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for setting, value in struct.iter_unpack(">HI", payload):
                if setting == _INITIAL_WINDOW_SETTING:
                    for each in self._windows:
                        self._windows[each] += value - self._initial
                    self._initial = value
            self._writer.write(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._writer.write(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            credit = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] = self._windows.get(stream, 0) + credit
            else:
                self._window += credit
        elif kind == _GOAWAY:
            raise EOFError
        elif stream in self._live and (kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM)):
            self._live.remove(stream)
            self._sizes.pop(stream, None)
            with self._ended.get_lock():
                self._ended.value += 1
            asyncio.get_running_loop().call_later(REOPEN_S, self._reopen, self._writer)

    def _reopen(self, writer: asyncio.StreamWriter) -> None:
        if writer is self._writer and not writer.is_closing():
            self._open()

    def _send(self) -> None:
        for stream, left in self._sizes.items():
            while (size := min(left, self._window, self._windows.get(stream, 0), _FRAME)) > 0:
                self._writer.write(frame(_DATA, 0, stream, bytes(size)))
                left -= size
                self._window -= size
                self._windows[stream] -= size
            self._sizes[stream] = left
