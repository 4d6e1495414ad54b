"""A service that answers when the test says so, and callers that ask it in a known order."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tests.clients.world import ScriptedQueryTower, abort, bad_request
from tests.worlds import wait_for
from two_tower_client import Embeddings, QueryTowerClient
from two_tower_client.features import Features


class Gated(ScriptedQueryTower):
    """Answers no call before `open` is set, and refuses queries of the age 99."""

    def __init__(self) -> None:
        super().__init__(("b1", "m1"))
        self.open = threading.Event()

    def EmbedQueries(self, request, context):
        ages = [list(query.features["age"].ints.values) for query in request.queries]
        self.receive(request, context)
        while context.is_active() and not self.open.wait(0.01):
            pass
        bad = [position for position, age in enumerate(ages) if age == [99]]
        if bad:
            abort(context, bad_request(*((f"queries[{position}].features[age]", "is 99") for position in bad)))
        return super().EmbedQueries(request, context)

    def receive(self, request, context):
        if not any(each is request for each in self.requests):
            super().receive(request, context)

    @property
    def ages(self) -> list[list[int]]:
        """The ages of the queries of each call."""
        return [[query.features["age"].ints.values[0] for query in request.queries] for request in self.requests]


@contextmanager
def asking(client: QueryTowerClient) -> Iterator[Callable[..., Future[Embeddings]]]:
    """Yields a function that embeds a query in a thread of its own, once all earlier ones are sent or in line."""
    with ThreadPoolExecutor(80) as threads:
        asked = 0

        def ask(features: Features, **options: object) -> Future[Embeddings]:
            nonlocal asked
            future = threads.submit(client.embed, [features], **options)  # pyright: ignore[reportArgumentType]
            asked += 1
            line = client._shared._line  # pyright: ignore[reportPrivateUsage]
            wait_for(lambda: future.done() or line._under_way + len(line._waiting) >= asked, "the query")  # pyright: ignore[reportPrivateUsage]
            return future

        yield ask


def vector(age: int) -> tuple[float, ...]:
    """Returns the embedding of a query, rounded: (cos, sin) of the age in degrees."""
    return {0: (1.0, 0.0), 60: (0.5, 0.866), 90: (0.0, 1.0)}[age]


def rounded(answer: Embeddings) -> tuple[float, ...]:
    (values,) = answer.vectors
    return tuple(round(value, 3) + 0.0 for value in values)
