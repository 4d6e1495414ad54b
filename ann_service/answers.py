"""Answers all searches of a request over one catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from ann_service import fusion, requests, responses
from ann_service.catalogue import Catalogue
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

_SEARCHES_AT_ONCE = 64
"""Number of searches of a large request that are ranked together. More would share no more of a scan."""


def answer(
    searches: Sequence[pb.Search],
    catalogue: Catalogue,
    newest_model_version: str,
    max_k: int,
    max_exclusions: int = requests.MAX_EXCLUSIONS,
) -> Steps[bytes]:
    """Returns the serialized `SearchItemsResponse` to a request, however many searches it has.

    Args:
        searches: searches of the request.
        catalogue: catalogue to search.
        newest_model_version: model version of the newest open bundle.
        max_k: largest `k` of a search.
        max_exclusions: largest number of ids that a search excludes.

    Raises:
        InvalidRequest, UnknownItem: see `ann_service.requests.parse`.
    """
    response = responses.begin(catalogue.manifest, newest_model_version)
    # Searches keep the sets of items that match their filters, so a part of them is answered at a time.
    for first in range(0, len(searches), _SEARCHES_AT_ONCE):
        part = searches[first : first + _SEARCHES_AT_ONCE]
        plans = yield from requests.parse(part, catalogue, max_k, first, max_exclusions=max_exclusions)
        hits = yield from fusion.rank(catalogue, plans)
        yield from responses.add(response, catalogue, plans, hits)
    return response.getvalue()
