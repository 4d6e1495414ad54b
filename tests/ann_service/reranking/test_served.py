"""Boosts, diversity, group limits and facets of a running ANN service, against brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.ann_service.shards.searches import boost, equals
from tests.ann_service.world import World, ask, serving
from tests.harness import failure, fields
from tests.worlds import item_table, tower, unit_vectors
from two_tower.ann.v1 import ann_service_pb2 as pb

COUNT = 300
QUERY = tower(1).golden_embeddings[0]
VECTORS = unit_vectors(COUNT, 1)
SCORES = (VECTORS @ QUERY).astype(float)
ITEMS = item_table(COUNT).attributes
COMEDY = equals("genres", "comedy")
RECENT = pb.Filter(range=pb.Range(attribute="year", min=2000))


def is_comedy(row: int) -> bool:
    return row % 2 == 1  # genres of every four rows: none, comedy, drama, both


def is_recent(row: int) -> bool:
    return row % 7 != 0 and 1950 + row % 70 >= 2000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    texts = lambda row: f"red thing {row % 5}" if row % 3 else ""  # noqa: E731
    with serving(tmp_path_factory.mktemp("store"), texts=texts, popularity=lambda row: row % 13) as running:
        yield running


def search(**more: Any) -> pb.Search:
    return pb.Search(**{"embedding": pb.Embedding(values=QUERY), "k": 10, "exact": True, **more})


def rows_of(result: pb.SearchResult) -> list[int]:
    return [int(item[1:]) for item in result.item_ids]


def best_rows(total: Callable[[int], float], k: int, rows: Sequence[int] = range(COUNT)) -> list[int]:
    return sorted(rows, key=lambda row: -total(row))[:k]


@pytest.mark.parametrize("weight", [0.05, 0.3, 1.0, -0.05, -0.3, -1.0])
@pytest.mark.parametrize("matches", [is_comedy, is_recent])
def test_one_boost_gives_the_result_of_adding_its_weight_to_all_scores(
    world: World, weight: float, matches: Callable[[int], bool]
) -> None:
    filter_ = COMEDY if matches is is_comedy else RECENT
    for k in (10, 150):
        [result] = ask(world, search(k=k, candidates_limit=k, boosts=[boost(filter_, weight)])).results
        rows = rows_of(result)
        assert rows == best_rows(lambda row: SCORES[row] + weight * matches(row), k)
        np.testing.assert_allclose(result.scores, SCORES[rows], atol=1e-6)  # as without boosts
        np.testing.assert_allclose(result.boosts, [weight * matches(row) for row in rows], atol=1e-6)
        assert (result.candidate_count, result.shortened_by_group_limits) == (k, False)


def test_several_boosts_add_up_within_filter_exclusions_and_lowest_score(world: World) -> None:
    def total(row: int) -> float:
        return SCORES[row] + 0.3 * is_comedy(row) - 0.2 * is_recent(row) + 0.5 * (row == 4)

    gone = best_rows(lambda row: SCORES[row], 3)
    rules = [boost(COMEDY, 0.3), boost(RECENT, -0.2), boost(equals("price", 1.0), 0.5)]  # the price of row 4
    more: dict[str, Any] = {"filter": pb.Filter(range=pb.Range(attribute="price", max=50)), "min_score": -0.5}
    [result] = ask(world, search(k=40, boosts=rules, exclude_item_ids=[f"i{row}" for row in gone], **more)).results
    priced = [row for row in range(201) if row % 5 and row not in gone and SCORES[row] >= -0.5]
    assert rows_of(result) == best_rows(total, 40, priced)


def test_an_item_that_matches_several_boosts_is_found_among_the_candidates_of_each(world: World) -> None:
    rules = [boost(COMEDY, 0.4), boost(RECENT, 0.4)]
    lists = [
        best_rows(lambda row: SCORES[row], 12),
        best_rows(lambda row: SCORES[row], 12, [row for row in range(COUNT) if is_comedy(row)]),
        best_rows(lambda row: SCORES[row], 12, [row for row in range(COUNT) if is_recent(row)]),
    ]
    pool = sorted({row for each in lists for row in each})
    [result] = ask(world, search(candidates_limit=12, boosts=rules)).results
    expected = best_rows(lambda row: SCORES[row] + 0.4 * is_comedy(row) + 0.4 * is_recent(row), 10, pool)
    assert rows_of(result) == expected


def test_boosts_apply_to_words_popular_items_and_fused_rankings(world: World) -> None:
    [words] = ask(world, pb.Search(text="red", ranking=pb.RANKING_LEXICAL, k=50, boosts=[boost(COMEDY, 90)])).results
    assert [is_comedy(row) for row in rows_of(words)] == [True] * 50
    assert all(0 < score < 5 for score in words.scores)
    popular = pb.Search(popular=pb.Popular(), k=COUNT // 2, boosts=[boost(COMEDY, 1.0)])
    [items] = ask(world, popular).results
    assert rows_of(items) == [
        row for n in range(12, -1, -1) for row in range(COUNT) if row % 13 == n and is_comedy(row)
    ]
    plain, fused = ask(
        world,
        search(text="red", ranking=pb.RANKING_FUSED, k=100),
        search(text="red", ranking=pb.RANKING_FUSED, k=10, candidates_limit=100, boosts=[boost(COMEDY, 0.5)]),
    ).results
    assert rows_of(fused) == [row for row in rows_of(plain) if is_comedy(row)][:10]


def test_diversity_chooses_among_the_candidates_by_their_vectors(world: World) -> None:
    diversity, limit = 0.6, 80
    [result] = ask(world, search(k=20, candidates_limit=limit, diversify=pb.Diversify(diversity=diversity))).results
    left, chosen = best_rows(lambda row: SCORES[row], limit), list[int]()
    for _ in range(20):
        near = [max((float(VECTORS[row] @ VECTORS[other]) for other in chosen), default=0.0) for row in left]
        values = [(1 - diversity) * SCORES[row] - diversity * each for row, each in zip(left, near, strict=True)]
        chosen.append(left.pop(int(np.argmax(values))))
    assert rows_of(result) == chosen
    np.testing.assert_allclose(result.scores, SCORES[chosen], atol=1e-6)
    assert result.candidate_count == limit
    assert len(result.marginal_relevances) == 20


def test_relevance_of_other_rankings_is_comparable_with_a_cosine(world: World) -> None:
    # Only 1 candidate is as popular as the best, so with a small weight of diversity it stays first.
    first = pb.Search(popular=pb.Popular(), k=30, diversify=pb.Diversify(diversity=0.01))
    [result] = ask(world, first).results
    assert result.marginal_relevances[0] == pytest.approx(0.99)  # of a relevance of 1
    [words] = ask(
        world, pb.Search(text="red", ranking=pb.RANKING_LEXICAL, k=5, diversify=pb.Diversify(diversity=0.25))
    ).results
    assert words.marginal_relevances[0] == pytest.approx(0.75)


def test_further_candidates_take_the_place_of_those_in_full_groups(world: World) -> None:
    limit = pb.GroupLimit(attribute="title", max_group_size=1)
    [result] = ask(world, search(k=20, candidates_limit=200, diversify=pb.Diversify(group_limits=[limit]))).results
    titles, expected = Counter[str](), list[int]()
    for row in best_rows(lambda row: SCORES[row], 200):
        title = ITEMS["title"].at(row)
        if len(expected) < 20 and (title is None or not titles[str(title)]):
            expected.append(row)
            titles[str(title)] += 1
    assert rows_of(result) == expected
    assert list(result.scores) == sorted(result.scores, reverse=True)
    assert not result.shortened_by_group_limits


def test_says_when_group_limits_leave_too_few(world: World) -> None:
    limit = pb.GroupLimit(attribute="genres", max_group_size=2)
    limited = search(k=150, candidates_limit=150, diversify=pb.Diversify(group_limits=[limit]))
    few = search(k=150, filter=equals("title", "Title 3"), diversify=pb.Diversify(diversity=0.5))
    [short, small] = ask(world, limited, few).results
    genres = Counter(genre for row in rows_of(short) for genre in ITEMS["genres"].at(row) or ())
    assert max(genres.values()) == 2
    assert (short.shortened_by_group_limits, len(short.item_ids) < 150, short.candidate_count) == (True, True, 150)
    assert (small.shortened_by_group_limits, len(small.item_ids), small.candidate_count) == (False, 5, 5)


def test_facets_count_over_the_candidates_whatever_is_returned(world: World) -> None:
    facets = [pb.Facet(attribute="genres"), pb.Facet(attribute="year", limit=3)]
    [result] = ask(world, search(k=3, candidates_limit=90, facets=facets)).results
    candidates = best_rows(lambda row: SCORES[row], 90)
    assert rows_of(result) == candidates[:3]
    genres, years = result.facets
    counts = Counter(genre for row in candidates for genre in ITEMS["genres"].at(row) or ())
    assert {each.value.string_value: each.count for each in genres.values} == counts
    assert genres.missing_count == sum(row % 4 == 0 for row in candidates)
    known = Counter(ITEMS["year"].at(row) for row in candidates if row % 7)
    expected = sorted(known.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    assert [(each.value.int_value, each.count) for each in years.values] == expected
    assert years.distinct_count == len(known)


def test_nothing_is_added_to_a_result_without_a_reranking(world: World) -> None:
    plain, with_limit = ask(world, search(), search(candidates_limit=50)).results
    assert plain == with_limit == pb.SearchResult(item_ids=plain.item_ids, scores=plain.scores)


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"candidates_limit": 9}, ["candidates_limit"]),
        ({"candidates_limit": 10_001}, ["candidates_limit"]),
        ({"candidates_limit": -1}, ["candidates_limit"]),
        ({"k": 200, "candidates_limit": 10_000, "diversify": pb.Diversify(diversity=0.0)}, []),
        ({"k": 200, "candidates_limit": 10_001, "diversify": pb.Diversify(diversity=0.1)}, ["candidates_limit"]),
        ({"diversify": pb.Diversify(diversity=1.01)}, ["diversify.diversity"]),
        ({"diversify": pb.Diversify(diversity=float("nan"))}, ["diversify.diversity"]),
        (
            {"diversify": pb.Diversify(group_limits=[pb.GroupLimit(attribute="brand", max_group_size=0)])},
            ["diversify.group_limits[0].attribute", "diversify.group_limits[0].max_group_size"],
        ),
        (
            {"diversify": pb.Diversify(group_limits=[pb.GroupLimit(attribute="year", max_group_size=1)] * 2)},
            ["diversify.group_limits[1].attribute"],
        ),
        (
            {"diversify": pb.Diversify(group_limits=[pb.GroupLimit(attribute="year", max_group_size=1)] * 5)},
            ["diversify.group_limits"],
        ),
        ({"facets": [pb.Facet(attribute="brand", limit=1001)]}, ["facets[0].attribute", "facets[0].limit"]),
        ({"facets": [pb.Facet(attribute="year")] * 9}, ["facets"]),
        ({"boosts": [pb.Boost(weight=0.1)]}, ["boosts[0].filter"]),
        ({"boosts": [boost(COMEDY, 0.0)]}, ["boosts[0].weight"]),
        ({"boosts": [boost(COMEDY, float("nan"))]}, ["boosts[0].weight"]),
        ({"boosts": [boost(COMEDY, float("inf"))]}, ["boosts[0].weight"]),
        ({"boosts": [boost(COMEDY, 0.6), boost(RECENT, 0.5)]}, ["boosts"]),
        ({"boosts": [boost(COMEDY, 0.01)] * 11}, ["boosts"]),
        ({"boosts": [boost(equals("brand", "x"), 3.0)]}, ["boosts[0].filter.equals.attribute", "boosts[0].weight"]),
        (
            {"filter": equals("brand", "x"), "boosts": [boost(COMEDY, 0.1)]},
            ["filter.equals.attribute"],
        ),
    ],
)
def test_says_everything_that_is_wrong_at_once(world: World, more: dict[str, Any], wrong: list[str]) -> None:
    service, manifest = world
    request = pb.SearchItemsRequest(searches=[search(**more)], model_version=manifest.model_version)
    if not wrong:
        assert len(service.stub.SearchItems(request, timeout=10).results) == 1
        return
    code, _, detail = failure(service.stub.SearchItems, request)
    assert (code, sorted(fields(detail))) == ("INVALID_ARGUMENT", [f"searches[0].{field}" for field in wrong])


def test_a_wrong_number_of_candidates_is_told_its_range(world: World) -> None:
    service, manifest = world
    for more, words in (
        ({"k": 3, "candidates_limit": 2}, "2, expected at least k (3) and at most 10000"),
        (
            {"k": 250, "candidates_limit": 9_000, "diversify": pb.Diversify(diversity=0.1)},
            "9000 times k (250), expected",
        ),
    ):
        request = pb.SearchItemsRequest(searches=[search(**more)], model_version=manifest.model_version)
        _, text, detail = failure(service.stub.SearchItems, request)
        assert words in text + str(detail)


def test_weights_of_ten_equal_boosts_may_be_rounded(world: World) -> None:
    rules = [boost(equals("title", f"Title {number}"), 0.1) for number in range(1, 11)]  # 0.1 as a float32 is above 0.1
    assert len(ask(world, search(boosts=rules)).results[0].item_ids) == 10


def test_a_boost_whose_filter_is_too_deep_with_that_of_the_search_is_refused(world: World) -> None:
    service, manifest = world
    deep = COMEDY
    for _ in range(15):
        deep = pb.Filter(**{"not": deep})  # 16 levels at the end
    assert ask(world, search(boosts=[boost(deep, 0.1)])).results
    request = pb.SearchItemsRequest(
        searches=[search(filter=COMEDY, boosts=[boost(deep, 0.1)])], model_version=manifest.model_version
    )
    code, text, detail = failure(service.stub.SearchItems, request)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["searches[0].boosts[0].filter"])
    assert "together with the filter of the search" in text + str(detail)


def test_candidates_count_as_requested_items(world: World) -> None:
    service, manifest = world
    many = search(candidates_limit=10_000, boosts=[boost(COMEDY, 0.1)] * 4)  # 50,000 each
    assert len(ask(world, many, many).results) == 2
    request = pb.SearchItemsRequest(searches=[many, many, search(k=1)], model_version=manifest.model_version)
    code, text, detail = failure(service.stub.SearchItems, request)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", ["searches"])
    assert "100001 items" in text + str(detail)
