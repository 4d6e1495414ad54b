"""Rankings of a running ANN service, by text and by text and embedding together, against an independent reference."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.store.folder_store import FolderStore
from tests.ann_service.test_catalogue import answers
from tests.ann_service.world import World, ask, serving
from tests.harness import ann_service, failure, fields
from tests.worlds import item_table, tower, unit_vectors, write_bundle
from two_tower.ann.v1 import ann_service_pb2 as pb

COUNT = 300
QUERY = tower(1).golden_embeddings[0]
VECTORS = unit_vectors(COUNT, 1)
COLOURS, KINDS = ("red", "blue", "black"), ("cable", "mouse", "bag", "fan", "lamp")


def text_of(row: int) -> str:
    """Returns the text of an item; texts differ in colour, kind and length, and every 13th item has none."""
    return "" if row % 13 == 0 else f"{COLOURS[row % 3]} {KINDS[row % 5]}{' with a long tail' * (row % 4)}"


def reference_bm25(words: list[str]) -> dict[int, float]:
    """BM25 after Robertson & Zaragoza 2009 with the idf of Lucene, in plain Python: scores above 0 by row."""
    texts = [text_of(row).split() for row in range(COUNT)]
    mean = sum(map(len, texts)) / COUNT
    scores: dict[int, float] = {}
    for word in words:
        n = sum(word in text for text in texts)
        for row, text in enumerate(texts):
            if tf := text.count(word):
                gain = tf / (tf + 1.5 * (0.25 + 0.75 * len(text) / mean))
                scores[row] = scores.get(row, 0.0) + math.log(1 + (COUNT - n + 0.5) / (n + 0.5)) * gain
    return scores


def by_words(*words: str, without: Collection[int] = (), depth: int = COUNT) -> list[int]:
    scores = reference_bm25(list(words))
    rows = [row for row in scores if row not in without]
    return sorted(rows, key=lambda row: (-round(scores[row], 5), row))[:depth]


def by_embedding(without: Collection[int] = (), depth: int = COUNT) -> list[int]:
    return [row for row in np.argsort(-(VECTORS @ QUERY)).tolist() if row not in without][:depth]


def fused(first: list[int], second: list[int], constant: int = 60) -> dict[int, float]:
    """Returns the fused scores by row, best first."""
    scores = {
        row: sum(1 / (constant + ranking.index(row) + 1) for ranking in (first, second) if row in ranking)
        for row in [*first, *second]
    }
    return dict(sorted(scores.items(), key=lambda pair: -round(pair[1], 12)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("store"), texts=text_of) as running:
        yield running


def lexical(text: str = "red mouse", k: int = 10, **more: Any) -> pb.Search:
    return pb.Search(text=text, ranking=pb.RANKING_LEXICAL, k=k, **more)


def both(text: str = "red mouse", k: int = 10, **more: Any) -> pb.Search:
    target = {} if "similar_to" in more else {"embedding": pb.Embedding(values=QUERY)}
    return pb.Search(text=text, ranking=pb.RANKING_FUSED, k=k, exact=True, **{**target, **more})


def rows_of(result: pb.SearchResult) -> list[int]:
    return [int(item[1:]) for item in result.item_ids]


def test_ranks_by_text_without_an_embedding_or_a_model(world: World) -> None:
    response = ask(world, lexical("Red MICE mouses", k=200), model_version="")
    expected = by_words("red", "mouse", depth=200)
    [result] = response.results
    assert rows_of(result) == expected
    scores = reference_bm25(["red", "mouse"])
    np.testing.assert_allclose(result.scores, [scores[row] for row in expected], atol=1e-5)
    manifest = world[1]
    assert (response.model_version, response.bundle_version) == (manifest.model_version, manifest.bundle_version)


def test_fused_answer_is_the_sum_of_reciprocal_ranks_of_the_first_hundred(world: World) -> None:
    for k, depth, constant in ((10, 100, 0), (100, 100, 0), (150, 150, 0), (20, 100, 5)):
        [result] = ask(world, both(k=k, fusion_constant=constant)).results
        expected = fused(by_embedding(depth=depth), by_words("red", "mouse", depth=depth), constant or 60)
        assert rows_of(result) == list(expected)[:k]
        np.testing.assert_allclose(result.scores, list(expected.values())[:k], rtol=1e-6)


def test_each_search_of_a_call_is_ranked_as_it_says(world: World) -> None:
    plain = pb.Search(embedding=pb.Embedding(values=QUERY), k=10, exact=True)
    first, second, third, fourth = ask(world, both(), plain, lexical(), both("bag")).results
    assert rows_of(first) == list(fused(by_embedding(depth=100), by_words("red", "mouse", depth=100)))[:10]
    assert rows_of(second) == by_embedding(depth=10)
    assert rows_of(third) == by_words("red", "mouse", depth=10)
    assert rows_of(fourth) == list(fused(by_embedding(depth=100), by_words("bag", depth=100)))[:10]


def test_filter_and_exclusions_shorten_neither_ranking(world: World) -> None:
    comedy = pb.Filter(equals=pb.Equals(attribute="genres", value=pb.AttributeValue(string_value="comedy")))
    gone = by_words("red", "mouse", depth=4) + by_embedding(depth=4)
    # Rows 1 and 3 of every four are comedies.
    without = {row for row in range(COUNT) if row % 2 == 0} | set(gone)
    more: dict[str, Any] = {"filter": comedy, "exclude_item_ids": [f"i{row}" for row in gone]}
    first, second = ask(world, lexical(**more), both(**more)).results
    assert rows_of(first) == by_words("red", "mouse", without=without, depth=10)
    dense = by_embedding(without=without, depth=100)
    assert rows_of(second) == list(fused(dense, by_words("red", "mouse", without=without, depth=100)))[:10]


def test_min_score_is_in_the_unit_of_the_scores(world: World) -> None:
    scores = reference_bm25(["red", "mouse"])
    floor = 0.5
    [result] = ask(world, lexical(k=200, min_score=floor)).results
    assert 0 < len(result.item_ids) == sum(score >= floor for score in scores.values()) < len(scores)
    [result] = ask(world, both(k=200, min_score=0.01)).results
    expected = fused(by_embedding(depth=200), by_words("red", "mouse", depth=200)).values()
    # 1 / (60 + 40) is the score of the 40th item of one ranking alone.
    assert 40 <= len(result.item_ids) == sum(score >= 0.01 for score in expected) < 200


def test_items_of_similar_to_are_left_out_of_both_rankings(world: World) -> None:
    own = by_words("red", "mouse", depth=1)
    [result] = ask(world, both(k=200, similar_to=pb.ItemIds(values=[f"i{own[0]}"]))).results
    assert own[0] not in rows_of(result)
    assert by_words("red", "mouse", depth=2)[1] in rows_of(result)


def test_returns_attributes(world: World) -> None:
    [result] = ask(world, lexical(k=5, return_attributes=["title"])).results
    titles = item_table(COUNT).attributes["title"]
    assert list(result.attributes[0].strings.values) == [titles.at(row) or "" for row in rows_of(result)]


def test_unknown_words_match_nothing_and_the_embedding_then_ranks_alone(world: World) -> None:
    first, second, third = ask(world, lexical("ζ !"), lexical("!?"), both("ζ")).results
    assert (len(first.item_ids), len(second.item_ids)) == (0, 0)
    assert rows_of(third) == by_embedding(depth=10)


@pytest.mark.parametrize(
    ("search", "field"),
    [
        (lexical(""), "text"),
        (lexical(" \t"), "text"),
        (both(""), "text"),
        (lexical("x" * 1001), "text"),
        (pb.Search(embedding=pb.Embedding(values=QUERY), k=5, text="red"), "text"),
        (lexical(embedding=pb.Embedding(values=QUERY)), "embedding"),
        (lexical(similar_to=pb.ItemIds(values=["i1"])), "similar_to"),
        (pb.Search(text="red", ranking=pb.RANKING_FUSED, k=5), ""),
        (both(fusion_constant=-1), "fusion_constant"),
        (both(fusion_constant=10_001), "fusion_constant"),
        (lexical(min_score=-0.1), "min_score"),
        (both(min_score=math.nan), "min_score"),
        (both(min_score=math.inf), "min_score"),
        (pb.Search(embedding=pb.Embedding(values=QUERY), k=5, ranking=9), "ranking"),  # type: ignore[arg-type]
        (lexical(k=0), "k"),
    ],
)
def test_says_which_field_of_a_text_search_is_wrong(world: World, search: pb.Search, field: str) -> None:
    service, manifest = world
    request = pb.SearchItemsRequest(searches=[search], model_version=manifest.model_version)
    code, _, detail = failure(service.stub.SearchItems, request)
    assert (code, fields(detail)) == ("INVALID_ARGUMENT", [f"searches[0].{field}".rstrip(".")])


def test_answers_the_longest_allowed_text(world: World) -> None:
    [result] = ask(world, lexical(("red " * 250)[:1000])).results
    assert rows_of(result) == by_words("red", depth=10)


def test_a_bundle_without_a_lexical_index_refuses_and_names_those_with_one(store: FolderStore) -> None:
    first = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(first.bundle_version)
        request = pb.SearchItemsRequest(searches=[lexical()])
        code, text, detail = failure(service.stub.SearchItems, request)
        assert (code, detail.reason, detail.metadata["bundle_versions"]) == (
            "FAILED_PRECONDITION",
            "LEXICAL_NOT_SERVED",
            "",
        )
        assert "search.serve" in text
        # The next bundle has a lexical index; the previous one still has none.
        second = write_bundle(store, model_version=first.model_version, texts=text_of)
        service.wait_for_bundle(second.bundle_version)
        response = service.stub.SearchItems(request, timeout=10)
        assert response.bundle_version == second.bundle_version
        assert rows_of(response.results[0]) == by_words("red", "mouse", depth=10)
        assert [list(bundle.lexical_attributes) for bundle in service.status().bundles] == [["title"], []]
        pinned = pb.SearchItemsRequest(searches=[lexical()], bundle_version=first.bundle_version)
        _, _, detail = failure(service.stub.SearchItems, pinned)
        assert detail.metadata["bundle_versions"] == second.bundle_version


def other_items(folder: Path) -> None:
    raw = re.sub(r'"i(\d)', r'"j\1', (folder / "lexical/index.json").read_text())
    (folder / "lexical/index.json").write_text(raw)


def shorter(folder: Path) -> None:
    raw = (folder / "lexical/index.json").read_text().replace('"item_count": 300', '"item_count": 301')
    (folder / "lexical/index.json").write_text(raw)


WRONG: list[tuple[Callable[[Path], None], str, str]] = [
    (other_items, "lexical", "golden query 0"),
    (shorter, "lexical", "indexes 301 items, the manifest says 300"),
    (lambda folder: (folder / "lexical" / "rows.npy").unlink(), "files", "lists no lexical/rows.npy"),
    (lambda folder: (folder / "lexical" / "rows.npy").write_bytes(b"junk"), "lexical", "no lexical index"),
    (lambda folder: (folder / "lexical/index.json").write_text("{}"), "lexical", "index.json is damaged"),
]


@pytest.mark.parametrize(("damage", "gate", "message"), WRONG)
def test_keeps_the_old_bundle_when_the_lexical_index_of_the_new_one_is_wrong(
    store: FolderStore, damage: Callable[[Path], None], gate: str, message: str
) -> None:
    good = write_bundle(store)
    with ann_service(store) as service:
        service.wait_for_bundle(good.bundle_version)
        bad = write_bundle(store, seed=2, texts=text_of, damage=damage).bundle_version
        problem = service.wait_for_problem(bad)
        assert (problem.gate, message in problem.message) == (gate, True), problem.message
        answers(service, good)


def test_damage_after_publishing_is_found_by_the_hash(store: FolderStore) -> None:
    bad = write_bundle(store, texts=text_of)
    path = store.path(bad.bundle_version) / "lexical" / "scores.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with ann_service(store) as service:
        problem = service.wait_for_problem(bad.bundle_version)
        assert (problem.gate, "lexical/scores.npy" in problem.message) == ("sha256", True)


def test_ranks_by_text_without_the_library_that_builds_the_index(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_words = write_bundle(store, texts=text_of)
    expected = by_words("red", "mouse", depth=10)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with ann_service(store) as service:
        service.wait_for_bundle(with_words.bundle_version)
        response = service.stub.SearchItems(pb.SearchItemsRequest(searches=[lexical()]))
        assert rows_of(response.results[0]) == expected


def test_memory_counts_the_lexical_index(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_bundle(store, texts=text_of)
    names = ("vectors.npy", "index.ann", "items.npz", "canaries.json")
    plain = sum(manifest.files[name].size_bytes for name in names)
    lexical_bytes = sum(entry.size_bytes for name, entry in manifest.files.items() if name.startswith("lexical/"))
    assert lexical_bytes > 0
    # Memory for two bundles without their lexical indexes, and not for a byte more.
    monkeypatch.setattr("ann_service.loader.available_bytes", lambda: 2 * plain)
    with ann_service(store) as service:
        assert service.wait_for_problem(manifest.bundle_version).gate == "memory"
