"""The judge of answers of shards, against answers right and wrong in each way, and the size from which Ray pays."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.attack.rows import Row
from benchmarks.shards import kills, swaps
from benchmarks.shards.costs import crossing_of
from benchmarks.shards.kills import Kills
from benchmarks.shards.reference import K, Nearest, Question, Reference
from benchmarks.shards.swaps import Swaps
from two_tower.ann.v1 import ann_service_pb2 as pb

ITEMS = 1000
ENDS = np.array([250, 500, 750, 1000])
EXACT, BY_INDEX = Question(0, True), Question(0, False)


def directions(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, OTHERS, QUERIES = directions(ITEMS, 1), directions(ITEMS, 2), directions(1, 3)
SCORES = VECTORS @ QUERIES[0]


def nearest(rows: np.ndarray) -> Nearest:
    """Returns the `K` nearest of some rows."""
    best = rows[np.argsort(-SCORES[rows])][:K]
    return Nearest(best, SCORES[best])


def in_shards(*shards: int) -> np.ndarray:
    return np.concatenate([np.arange(ENDS[shard] - 250, ENDS[shard]) for shard in shards])


# The index of each shard finds every item but each fifth, of those that it holds.
FOUND = [[nearest(rows[rows % 5 != 0]) for rows in map(in_shards, range(4))]]
REFERENCE = Reference(
    "v", VECTORS, QUERIES, ENDS, None, {True: [[nearest(in_shards(n)) for n in range(4)]], False: FOUND}
)


def result(rows: np.ndarray, scores: np.ndarray | None = None) -> pb.SearchResult:
    return pb.SearchResult(item_ids=[f"item-{row}" for row in rows], scores=SCORES[rows] if scores is None else scores)


def by_index(*shards: int) -> np.ndarray:
    rows = in_shards(*shards)
    return nearest(rows[rows % 5 != 0]).rows


ALL = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("question", "rows", "coverage"),
    [
        (EXACT, nearest(in_shards(*ALL)).rows, 1.0),
        (BY_INDEX, by_index(*ALL), 1.0),
        (BY_INDEX, nearest(in_shards(*ALL)).rows, 1.0),  # searches of several callers shared a scan
        (EXACT, nearest(in_shards(0, 3)).rows, 0.5),
        (BY_INDEX, by_index(1), 0.25),
    ],
)
def test_right_answers_have_no_fault(question: Question, rows: np.ndarray, coverage: float) -> None:
    assert REFERENCE.fault(question, result(rows), coverage) is None


@pytest.mark.parametrize("question", [EXACT, BY_INDEX])
@pytest.mark.parametrize("shards", [(0, 1, 2), (1, 2, 3), (2,)])
def test_an_answer_that_lacks_shards_and_does_not_say_so_is_wrong(question: Question, shards: tuple[int, ...]) -> None:
    rows = nearest(in_shards(*shards)).rows
    assert REFERENCE.fault(question, result(rows), len(shards) / 4) is None
    fault = REFERENCE.fault(question, result(rows), 1.0)
    assert fault == "not what shards with 1.0000 of the items find"
    assert REFERENCE.fault(question, result(rows), 0.6) is not None  # no shards hold that share


def test_an_exact_answer_by_an_index_is_wrong() -> None:
    assert REFERENCE.fault(EXACT, result(by_index(*ALL)), 1.0) == "not what shards with 1.0000 of the items find"


def test_an_answer_with_an_item_of_another_bundle_is_wrong() -> None:
    rows = nearest(in_shards(*ALL)).rows
    scores = SCORES[rows].copy()
    scores[40] = OTHERS[rows[40]] @ QUERIES[0]
    fault = REFERENCE.fault(EXACT, result(rows, scores), 1.0)
    assert fault is not None
    assert fault.startswith(f"the score of item {rows[40]} is ")


def test_an_answer_with_too_few_or_repeated_or_unknown_items_is_wrong() -> None:
    rows = nearest(in_shards(*ALL)).rows
    assert REFERENCE.fault(EXACT, result(rows[:99]), 1.0) == "99 different items, expected 100"
    assert REFERENCE.fault(EXACT, result(np.array([*rows[:99], rows[0]])), 1.0) == "99 different items, expected 100"
    unknown = result(np.array([*rows[:99], ITEMS]), np.array([*SCORES[rows[:99]], 0.1]))
    assert REFERENCE.fault(EXACT, unknown, 1.0) == "item 1000 is not in bundle v"


def missed(rows: list[Row]) -> list[str]:
    return [row.promise for row in rows if not row.is_kept]


GOOD = {"complete": 900, "refused": 40, "none": 3}


@pytest.mark.parametrize(
    ("away_s", "kinds", "expected"),
    [
        ([4.0, 9.0], GOOD, []),
        ([4.0], GOOD, ["kills that were missed by answers, and made good for"]),
        ([4.0, 9.0], GOOD | {"wrong": 1}, ["answers that are not what they say"]),
        ([4.0, 9.0], GOOD | {"failed": 1}, ["answers neither complete nor refused"]),
        ([4.0, 9.0], GOOD | {"partial": 1}, ["answers neither complete nor refused"]),
        ([4.0, 9.0], GOOD | {"refused": 0}, ["answers that are refused and say so"]),
        ([4.0, 200.0], GOOD, [f"time until complete again, {which}" for which in ("median", "longest")]),
    ],
)
def test_each_fault_of_killed_nodes_is_a_miss(away_s: list[float], kinds: dict[str, int], expected: list[str]) -> None:
    found = kills.judge("kills", Kills(away_s, Counter(kinds)), 2, allows_partial=False)
    assert missed(list(found)) == expected


def test_where_part_answers_are_allowed_a_refusal_of_a_part_is_a_miss() -> None:
    kinds = Counter({"complete": 900, "partial": 40, "none": 3})
    assert missed(list(kills.judge("kills", Kills([4.0, 9.0], kinds), 2, allows_partial=True))) == []
    kinds["refused"] = 1
    rows = list(kills.judge("kills", Kills([4.0, 9.0], kinds), 2, allows_partial=True))
    assert missed(rows) == ["answers neither complete nor partial"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Swaps([1.0, 2.0], 0, Counter(complete=100)), []),
        (Swaps([1.0], 0, Counter(complete=100)), ["swaps of all shards under load"]),
        (Swaps([1.0, 2.0], 0, Counter(complete=99, failed=1)), ["calls that failed, or were not of all shards"]),
        (Swaps([1.0, 2.0], 0, Counter(complete=99, refused=1)), ["calls that failed, or were not of all shards"]),
        (Swaps([1.0, 2.0], 0, Counter(complete=99, wrong=1)), ["answers that mix bundles, or are wrong"]),
        (
            Swaps([1.0, 2.0], 1, Counter(complete=100)),
            ["calls that got the old bundle after the new one had answered"],
        ),
    ],
)
def test_each_fault_of_a_swap_is_a_miss(found: Swaps, expected: list[str]) -> None:
    assert missed(list(swaps.judge(found, 2))) == expected


def test_shards_pay_where_the_search_outweighs_the_fan_out() -> None:
    # One index takes 1 ms + 2 µs an item; four shards take 6 ms more, and a fourth of the 2 µs: equal at 6 / 0.0015.
    assert crossing_of(6.0, 0.002, 4) == pytest.approx(4000.0)
    assert crossing_of(6.0, 0.0, 4) == np.inf
    assert crossing_of(-1.0, 0.002, 4) == 0.0
