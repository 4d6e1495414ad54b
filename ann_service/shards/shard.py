"""One shard of a catalogue: it answers the service's own messages from an ordinary catalogue of its items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ann_service import answers
from ann_service.catalogue import Catalogue
from ann_service.requests import MAX_EXCLUSIONS, MAX_SIMILAR
from retrieval.bundle.catalogue.string_table import ABSENT
from retrieval.serving.answering.wire import decode
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_MAX_K = 100_000
"""Largest `k` of a search in a shard: at least that of every setting, since the front has checked it."""


class Found(NamedTuple):
    """The items of a list that a shard holds.

    Attributes:
        positions: [n] int64, positions in the list.
        vectors: [n, dimension] float32, unit length.
    """

    positions: np.ndarray
    vectors: np.ndarray


class Shard:
    """One shard of a catalogue. Immutable, and safe for several threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Takes the items, vectors and indexes of the shard."""
        self.catalogue = catalogue

    def search(self, body: bytes) -> Steps[bytes]:
        """Returns the serialized `SearchItemsResponse` to a serialized `SearchItemsRequest`, over this shard alone.

        Args:
            body: request that the front has made of checked searches; no search is by similarity to items.
        """
        searches = decode(body, pb.SearchItemsRequest).searches
        # The front adds the items of `similar_to` to the exclusions.
        return (yield from answers.answer(searches, self.catalogue, "", _MAX_K, MAX_EXCLUSIONS + MAX_SIMILAR))

    def find(self, item_ids: Sequence[str]) -> Found:
        """Returns the items of a list that this shard holds."""
        rows = self.catalogue.items.ids.find(item_ids)  # [n]
        positions = np.flatnonzero(rows != ABSENT)
        return Found(positions, self.catalogue.vectors[rows[positions]])
