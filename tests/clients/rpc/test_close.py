"""A client that is closed while a call is in flight, and a task that is cancelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from two_tower_client import Search
from two_tower_client.ann import AsyncAnnClient
from two_tower_client.errors import InvalidRequest


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1:{0}", "127.0.0.1:{0},127.0.0.1:{0}"])
def test_another_task_that_closes_the_client_cancels_no_task(silent: int, address: str) -> None:
    async def run() -> None:
        client = AsyncAnnClient(address.format(silent))
        call = asyncio.create_task(client.search([Search(similar_to=["i1"], k=1)], timeout_s=20.0))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(InvalidRequest, match="the client is closed"):
            await asyncio.wait_for(call, 5)
        assert not call.cancelled()

    asyncio.run(run())


def test_a_cancelled_task_is_cancelled(silent: int) -> None:
    async def run() -> None:
        async with AsyncAnnClient(f"127.0.0.1:{silent}") as client:
            call = asyncio.create_task(client.search([Search(similar_to=["i1"], k=1)], timeout_s=20.0))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(call, 5)

    asyncio.run(run())
