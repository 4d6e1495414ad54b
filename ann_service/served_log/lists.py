"""The lists of the served log: which items were returned for which embedding."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from retrieval.serving.answering.call import Call, Method
from retrieval.serving.answering.served_log import ServedLog, key_of
from retrieval.serving.answering.served_parts import Row, ServedTable
from two_tower.ann.v1 import ann_service_pb2 as pb

LISTS = ServedTable(
    "lists",
    {"key": "int", "time": "float", "bundle_version": "string", "item_ids": "strings", "scores": "floats"},
)


class RecordedSearches:
    """The method SearchItems, with answers that are recorded.

    Attributes:
        name, max_shared, scope, is_quick: See `retrieval.serving.answering.call.Method`.
    """

    def __init__(self, method: Method, log: ServedLog) -> None:
        """Takes the method that answers, and the log of its answers."""
        self.name, self.max_shared = method.name, method.max_shared
        self.scope, self.is_quick = method.scope, method.is_quick
        self._method, self._log = method, log

    def is_short(self, call: Call) -> bool:
        """Returns what the method says of a call."""
        return self._method.is_short(call)

    def answer(self, calls: Sequence[Call]) -> Iterator[None]:
        """Answers calls, and records those that were answered."""
        yield from self._method.answer(calls)
        now_s = time.time()
        for call in calls:
            if call.error is None and call.response:
                to_rows = partial(_to_rows, call.body, call.response, call.bundle_version, now_s)
                self._log.record(to_rows, len(call.body) + len(call.response))


def _to_rows(body: bytes, response: bytes, bundle_version: str, at_s: float) -> Iterator[Row]:
    """Yields a row for each search by an embedding."""
    searches = pb.SearchItemsRequest.FromString(body).searches
    results = pb.SearchItemsResponse.FromString(response).results
    for search, result in zip(searches, results, strict=True):
        if search.WhichOneof("target") == "embedding":
            yield key_of(search.embedding.values), at_s, bundle_version, list(result.item_ids), list(result.scores)
