"""A Redis server, and two replicas of the query tower service that read and write the features of users in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from testbed.redis_server import RedisServer
from testbed.services import Replica
from two_tower.query.v1 import query_tower_service_pb2 as pb
from two_tower.query.v1 import query_tower_service_pb2_grpc as query_grpc

SYNC_ALWAYS, SYNC_EVERY_SECOND = "always", "everysec"
"""When Redis makes sure that its log is on disk: before it answers, or once a second."""

FIRST_S = 1_700_000_000
"""Time of the first event of each user, in seconds since 1970."""


@dataclass(frozen=True)
class World:
    """What runs.

    Attributes:
        redis: Redis server, which keeps its data on disk.
        replicas: Two replicas of the query tower service.
        max_events: Largest number of events of a user that they keep.
    """

    redis: RedisServer
    replicas: Sequence[Replica]
    max_events: int

    @contextmanager
    def stubs(self) -> Iterator[list[Any]]:
        """Yields a stub of each replica, with a connection of its own."""
        with ExitStack() as stack:
            channels = [stack.enter_context(grpc.insecure_channel(each.address)) for each in self.replicas]
            yield [query_grpc.QueryTowerServiceStub(channel) for channel in channels]


@contextmanager
def serving(store: Path, folder: Path, sync: str, max_events: int) -> Iterator[World]:
    """Yields both replicas and Redis while they run.

    Args:
        store: Store with a live bundle.
        folder: Folder for logs, and for the data of Redis.
        sync: `SYNC_ALWAYS` or `SYNC_EVERY_SECOND`.
        max_events: Largest number of events of a user.
    """
    options = () if sync == SYNC_ALWAYS else ("--appendonly", "yes", "--appendfsync", sync)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis", *options, keeps=sync == SYNC_ALWAYS))
        flags = {
            "features": redis.url,
            "features-max-events": str(max_events),
            "poll-interval-s": "1",
            "drain-delay-s": "0",
        }
        replicas = [Replica("query_tower_service", store, folder / f"replica-{n}", flags) for n in range(2)]
        for replica in replicas:
            stack.callback(replica.stop)
            replica.start()
        for replica in replicas:
            replica.wait_until_serving()
        yield World(redis, replicas, max_events)


def to_event(user: str, number: int, position: int) -> pb.Event:
    """Returns an event.

    Args:
        user: Id of the user.
        number: Number of the event, of which its id and the id of its item are made.
        position: Position of the event in the history of the user.
    """
    return pb.Event(event_id=f"e{number}", user_id=user, item_id=f"i{number}", time=FIRST_S + position, type="view")
