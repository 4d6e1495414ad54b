"""The measurements of the report: recall by search budget, popularity, the map of items, example users."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

from retrieval.bundle.catalogue.items import ItemTable, StringColumn, StringListColumn
from retrieval.bundle.manifest import IndexSpec
from trainer.data.events import Events
from trainer.publishing.report.item_map import item_titles, map_items
from trainer.publishing.report.recommendations import choose_examples, measure_popularity
from trainer.publishing.report.search_curve import measure_search


def unit(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    vectors = generator.normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def spec(budget: int) -> IndexSpec:
    return IndexSpec("annoy", "angular", {}, budget, 0.9)


def test_recall_by_budget_is_that_of_a_plain_search(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    vectors, queries = unit(generator, 500, 16), unit(generator, 30, 16)
    index = AnnoyIndex(16, "angular")
    index.set_seed(1)
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(5, n_jobs=1)
    index.save(str(tmp_path / "index.ann"))

    curve = measure_search(tmp_path / "index.ann", vectors, queries, spec(320))

    assert [point.budget for point in curve.points] == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert curve.published_budget == 320
    for point in curve.points:
        found = [
            len(set(index.get_nns_by_vector(query, 100, point.budget)) & set(np.argsort(-(vectors @ query))[:100]))
            for query in queries[: point.query_count]
        ]
        assert point.recall_at_100 == pytest.approx(sum(found) / (100 * len(found)))
        assert 20 <= point.query_count <= 30
        assert 0 < point.median_ms <= point.p95_ms
    assert curve.points[0].recall_at_100 < 0.5 < 0.9 < curve.points[-1].recall_at_100
    assert curve.exact_ms > 0


def test_recall_counts_all_items_of_a_small_catalogue(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(3), 7, 4)
    index = AnnoyIndex(4, "angular")
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(3, n_jobs=1)
    index.save(str(tmp_path / "index.ann"))
    curve = measure_search(tmp_path / "index.ann", vectors, vectors[:2], spec(100))
    assert curve.points[-1].recall_at_100 == 1.0
    assert curve.points[-1].query_count == 2


def events(pairs: list[tuple[int, int]]) -> Events:
    users, items = (np.array(column, dtype=np.int32) for column in zip(*pairs, strict=True))
    return Events(users, items, np.arange(len(pairs), dtype=np.float64), np.ones(len(pairs), dtype=np.float32))


# Twelve items on a quarter circle: item i points i * 5 degrees up, so that a query along x ranks them by their row.
CIRCLE = np.array([[math.cos(math.radians(5 * i)), math.sin(math.radians(5 * i))] for i in range(12)], dtype=np.float32)
ALONG_X, ALONG_LAST = np.array([1, 0], dtype=np.float32), CIRCLE[11]


def test_popularity_counts_top_10s_without_known_items() -> None:
    known = events([(0, 0), (0, 3), (1, 0), (2, 11)])
    users = np.array([2, 0])
    found = measure_popularity(users, np.stack([ALONG_X, ALONG_LAST]), CIRCLE, known)
    assert found.user_count == 2
    assert found.events.tolist() == [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    # User 2 gets the items 0 to 9. User 0 gets those from 11 down, without 3 and 0: 11 to 4, 2, 1.
    assert found.recommended.tolist() == [1, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1, 1]


def test_popularity_never_counts_known_items_even_where_too_few_others_are_left() -> None:
    known = events([(0, item) for item in range(9)])
    found = measure_popularity(np.array([0]), ALONG_X[None], CIRCLE, known)
    assert found.recommended.tolist() == [0] * 9 + [1] * 3


def test_examples_show_newest_history_ranks_and_held_out_items() -> None:
    known = events([(0, 2), (0, 0), (1, 5), (2, 4), (2, 4)])
    test = events([(0, 3), (0, 11), (1, 5)])
    titles = [f"t{item}" for item in range(12)]
    users = np.array([1, 2, 0])
    queries = np.stack([ALONG_LAST, ALONG_X, ALONG_X])
    first, second, third = choose_examples(["a", "b", "c"], titles, known, test, users, queries, CIRCLE)
    assert (first.user, second.user, third.user) == ("a", "b", "c")  # only a has a held-out item that is new
    assert list(first.history) == ["t0", "t2"]
    assert first.known_count == 2
    # Without 0 and 2 the ranking along x is 1, 3, 4, ... 11: 3 is the second, 11 the tenth.
    assert [r.title for r in first.recommendations] == ["t1", "t3", *(f"t{item}" for item in range(4, 12))]
    assert [r.title for r in first.recommendations if r.held_out] == ["t3", "t11"]
    assert [(item.title, item.rank) for item in first.held_out] == [("t3", 2), ("t11", 10)]
    assert first.recommendations[0].score == pytest.approx(math.cos(math.radians(5)), abs=1e-6)
    assert list(second.held_out) == []  # b had item 5 already
    assert list(third.history) == ["t4", "t4"]
    assert third.known_count == 1


def test_where_repeats_count_known_items_are_recommended_and_held_out_ones_too() -> None:
    known, test = events([(0, 0), (0, 2)]), events([(0, 2), (0, 3)])
    titles, users, queries = [f"t{item}" for item in range(12)], np.array([0]), ALONG_X[np.newaxis]
    (found,) = choose_examples(["a"], titles, known, test, users, queries, CIRCLE, repeats=True)
    # The whole ranking along x is 0, 1, 2, ... 11.
    assert [r.title for r in found.recommendations] == [f"t{item}" for item in range(10)]
    assert [r.title for r in found.recommendations if r.held_out] == ["t2", "t3"]
    assert [(item.title, item.rank) for item in found.held_out] == [("t2", 3), ("t3", 4)]
    counted = measure_popularity(users, queries, CIRCLE, known, repeats=True)
    assert counted.recommended.tolist() == [1] * 10 + [0] * 2
    assert measure_popularity(users, queries, CIRCLE, known).recommended.tolist() == [
        0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    ]  # fmt: skip


def test_at_most_ten_users_are_shown() -> None:
    known, test = events([(user, 0) for user in range(15)]), events([(user, 1) for user in range(5, 15)])
    ids = [f"u{user:02}" for user in range(15)]
    queries = np.tile(ALONG_X, (15, 1))
    found = choose_examples(ids, ["t"] * 12, known, test, np.arange(15), queries, CIRCLE)
    assert [example.user for example in found] == ids[5:]


def table(**attributes: StringColumn | StringListColumn) -> ItemTable:
    return ItemTable.of(("i0", "i1", "i2"), attributes)


def test_titles_are_of_the_attribute_title_or_name_else_ids() -> None:
    title, name = StringColumn.of(["Alien", None, ""]), StringColumn.of(["a", "b", "c"])
    assert item_titles(table(name=name, title=title)) == ["Alien", "i1", "i2"]
    assert item_titles(table(name=name)) == ["a", "b", "c"]
    assert item_titles(table()) == ["i0", "i1", "i2"]
    assert item_titles(table(title=StringListColumn.of([["x"], ["y"], []]))) == ["i0", "i1", "i2"]


def test_map_is_the_principal_components_most_popular_first() -> None:
    # On a line of slope 3/4 at -1, 0 and 1 times (4, 3): one direction, (0.8, 0.6), with all of the variance.
    vectors = np.array([[4, 3], [0, 0], [-4, -3]], dtype=np.float32)
    genres = StringListColumn.of([["drama", "war"], None, ["war"]])
    items = table(title=StringColumn.of(["A", "B", "C"]), genres=genres)
    found = map_items(vectors, np.array([1, 9, 4]), items, ["A", "B", "C"])
    assert found is not None
    assert list(found.titles) == ["B", "C", "A"]
    assert found.points[:, 0] == pytest.approx([0, -5, 5])
    assert found.points[:, 1] == pytest.approx([0, 0, 0], abs=1e-9)
    assert found.explained == pytest.approx((1.0, 0.0))
    assert (found.group_name, list(found.groups)) == ("genres", ["none", "war", "drama"])


def test_map_has_no_colours_without_an_attribute_of_few_values() -> None:
    items = table(title=StringColumn.of(["A", "B", "A"]), maker=StringColumn.of(["x", "x", "x"]))
    found = map_items(np.eye(3, dtype=np.float32), np.ones(3), items, ["A", "B", "A"])
    assert found is not None
    assert (found.group_name, list(found.groups)) == ("", [])


def test_map_of_equal_vectors_has_no_variance_to_share() -> None:
    found = map_items(np.ones((3, 2), dtype=np.float32), np.ones(3), table(), ["A", "B", "C"])
    assert found is not None
    assert found.explained == (0.0, 0.0)
    assert map_items(np.eye(2, dtype=np.float32), np.ones(2), table(), ["A", "B"]) is None
