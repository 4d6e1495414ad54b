"""The same searches for a bundle in one piece and for one in shards, whose answers have to be equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.worlds import tower, unit_vectors
from two_tower.ann.v1 import ann_service_pb2 as pb

ITEMS = 1003  # not a multiple of 4, so that shards differ in size
VECTORS = unit_vectors(ITEMS, 1)
QUERY = tower(1).golden_embeddings[0]
WORDS = ("red", "green", "blue", "black", "white", "small", "large")


def text_of(row: int) -> str:
    """Returns the text of an item; every 9th has none."""
    return "" if row % 9 == 0 else f"{WORDS[row % 7]} {WORDS[row * row % 5]} thing {row % 31}"


def events_of(row: int) -> int:
    """Returns the number of events of an item: many items have the same, so that the order of ties shows."""
    return row % 13


BUNDLE: dict[str, Any] = {"item_count": ITEMS, "texts": text_of, "popularity": events_of}


def by_embedding(vector: Any = QUERY, **more: Any) -> pb.Search:
    return pb.Search(**{"embedding": pb.Embedding(values=vector), "k": 10, "exact": True, **more})


def similar_to(*item_ids: str, **more: Any) -> pb.Search:
    return pb.Search(**{"similar_to": pb.ItemIds(values=item_ids), "k": 10, "exact": True, **more})


def equals(attribute: str, value: Any) -> pb.Filter:
    kind = {str: "string_value", int: "int_value", float: "float_value"}[type(value)]
    return pb.Filter(equals=pb.Equals(attribute=attribute, value=pb.AttributeValue(**{kind: value})))


def boost(filter_: pb.Filter, weight: float) -> pb.Boost:
    return pb.Boost(filter=filter_, weight=weight)


def limited(**sizes: int) -> pb.Diversify:
    return pb.Diversify(
        group_limits=[pb.GroupLimit(attribute=name, max_group_size=size) for name, size in sizes.items()]
    )


ATTRIBUTES = ["price", "title", "genres", "year"]
FACETS = [pb.Facet(attribute="genres"), pb.Facet(attribute="title", limit=3), pb.Facet(attribute="price", limit=1000)]
COMEDY = equals("genres", "comedy")
RARE = pb.Filter(all_of=pb.Filters(filters=[equals("year", 1987), pb.Filter(**{"not": COMEDY})]))
NEAREST = [f"i{row}" for row in np.argsort(-(VECTORS @ QUERY))[:40]]

SEARCHES: dict[str, pb.Search] = {
    "plain": by_embedding(),
    "of any length": by_embedding(QUERY * 1e20),
    "one item": by_embedding(k=1),
    "as many as allowed": by_embedding(k=200),
    "a filter": by_embedding(filter=COMEDY, k=60),
    "a filter that few items match": by_embedding(filter=RARE, k=60),
    "a filter that no item matches": by_embedding(filter=equals("title", "nowhere"), return_attributes=ATTRIBUTES),
    "exclusions": by_embedding(exclude_item_ids=[*NEAREST[::2], "nowhere"]),
    "a lowest score": by_embedding(k=100, min_score=0.6),
    "a lowest score that no item has": by_embedding(min_score=1.0),
    "attributes": by_embedding(k=100, return_attributes=ATTRIBUTES),
    "similar to one item": similar_to("i17"),
    "similar to items of several shards": similar_to(
        "i990", "i3", "i500", "i3", filter=COMEDY, return_attributes=ATTRIBUTES
    ),
    "lexical": pb.Search(ranking=pb.RANKING_LEXICAL, text="Small red things", k=50, return_attributes=["title"]),
    "lexical with a filter": pb.Search(ranking=pb.RANKING_LEXICAL, text="red 7", k=50, filter=COMEDY, min_score=0.5),
    "lexical of unknown words": pb.Search(ranking=pb.RANKING_LEXICAL, text="nowhere", k=5, return_attributes=["year"]),
    "fused": by_embedding(ranking=pb.RANKING_FUSED, text="large black thing", k=30, return_attributes=ATTRIBUTES),
    "fused deeper than 100": by_embedding(ranking=pb.RANKING_FUSED, text="blue", k=150, exclude_item_ids=NEAREST[:5]),
    "fused of similar items": similar_to("i8", "i700", ranking=pb.RANKING_FUSED, text="white", fusion_constant=3),
    "fused with a lowest score": by_embedding(ranking=pb.RANKING_FUSED, text="red", k=100, min_score=0.012),
    "popular": pb.Search(popular=pb.Popular(), k=100, return_attributes=["price"]),
    "popular with a filter": pb.Search(popular=pb.Popular(), k=20, filter=RARE, exclude_item_ids=["i37"]),
    "popular above a share": pb.Search(popular=pb.Popular(), k=200, min_score=0.0019),
    "boosts": by_embedding(k=60, boosts=[boost(COMEDY, 0.3), boost(RARE, -0.5)], return_attributes=ATTRIBUTES),
    "boosts, filter and exclusions": by_embedding(
        k=60,
        filter=pb.Filter(range=pb.Range(attribute="year", min=1960)),
        exclude_item_ids=NEAREST[:10],
        boosts=[boost(COMEDY, 0.2), boost(equals("title", "Title 7"), 0.8)],
        min_score=0.1,
    ),
    "a boost of fused rankings": by_embedding(
        ranking=pb.RANKING_FUSED,
        text="large black thing",
        boosts=[boost(COMEDY, 0.01)],
        facets=[pb.Facet(attribute="year")],
    ),
    "a boost of words": pb.Search(ranking=pb.RANKING_LEXICAL, text="small red", k=30, boosts=[boost(COMEDY, 2.5)]),
    "a boost of popular items": pb.Search(
        popular=pb.Popular(), k=30, boosts=[boost(RARE, 0.001), boost(COMEDY, 0.001)]
    ),
    "diverse": by_embedding(k=30, diversify=pb.Diversify(diversity=0.5), return_attributes=["title"]),
    "only diverse": by_embedding(k=100, candidates_limit=300, diversify=pb.Diversify(diversity=1.0)),
    "diverse and similar to items": similar_to("i3", "i500", diversify=pb.Diversify(diversity=0.3), filter=COMEDY),
    "diverse of words": pb.Search(
        ranking=pb.RANKING_LEXICAL, text="small red", k=30, diversify=pb.Diversify(diversity=0.4)
    ),
    "diverse of popular items": pb.Search(popular=pb.Popular(), k=30, diversify=pb.Diversify(diversity=0.4)),
    "group limits": by_embedding(k=50, candidates_limit=200, diversify=limited(title=1, genres=20, year=2, price=1)),
    "group limits that leave too few": by_embedding(k=50, diversify=limited(genres=3), facets=FACETS),
    "facets": by_embedding(k=5, candidates_limit=500, facets=FACETS),
    "facets of nothing": by_embedding(filter=equals("title", "nowhere"), facets=FACETS),
    "all of a reranking": by_embedding(
        k=40,
        candidates_limit=150,
        filter=pb.Filter(**{"not": equals("title", "Title 5")}),
        boosts=[boost(COMEDY, 0.2), boost(equals("genres", "drama"), -0.1)],
        diversify=pb.Diversify(diversity=0.6, group_limits=[pb.GroupLimit(attribute="title", max_group_size=2)]),
        facets=FACETS,
        return_attributes=["year", "title"],
    ),
}

INVALID: dict[str, list[pb.Search]] = {
    "no target": [pb.Search(k=5)],
    "k": [by_embedding(k=0), by_embedding(k=201)],
    "another dimension": [by_embedding([1.0, 2.0])],
    "an unknown attribute": [
        by_embedding(return_attributes=["price", "colour"]),
        by_embedding(filter=equals("colour", "red")),
    ],
    "a value of another type": [by_embedding(filter=equals("year", "1987"))],
    "an unknown item": [similar_to("i5", "nowhere", "elsewhere")],
    "no items": [similar_to()],
    "too many items": [similar_to(*(f"i{row}" for row in range(1001)))],
    "too many exclusions": [by_embedding(exclude_item_ids=["x"] * 100_001)],
    "a faulty search after good ones": [by_embedding(), by_embedding(), similar_to("i1", min_score=2.0)],
    "an unknown item after a faulty search": [by_embedding(k=0), similar_to("nowhere")],
    "text without a ranking": [by_embedding(text="red")],
    "candidates": [by_embedding(candidates_limit=9), by_embedding(facets=FACETS, candidates_limit=10_001)],
    "a reranking": [
        by_embedding(
            filter=equals("colour", "red"),
            boosts=[pb.Boost(weight=0.2), boost(COMEDY, 0.0), boost(equals("colour", "red"), 2.0)],
            diversify=pb.Diversify(diversity=-0.1, group_limits=[pb.GroupLimit(attribute="colour")]),
            facets=[pb.Facet(attribute="colour", limit=-1), FACETS[0], FACETS[0]],
        )
    ],
    "boosts with too large a sum": [by_embedding(boosts=[boost(COMEDY, 0.6), boost(RARE, -0.6)])],
    "popular fused with a text": [pb.Search(popular=pb.Popular(), ranking=pb.RANKING_FUSED, text="red", k=5)],
}
