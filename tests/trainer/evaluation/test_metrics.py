"""Full-ranking metrics, against an independent reference and worked examples."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.reference import evaluate as reference
from trainer.data.dataset import Events
from trainer.errors import DataError
from trainer.evaluation import metrics
from trainer.evaluation.metrics import HeldOut

NAMES = (
    "recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10", "ndcg@20", "ndcg@100", "mrr", "coverage@10"
)  # fmt: skip


def evaluate(scores: np.ndarray, known: np.ndarray, test: np.ndarray) -> dict[str, float]:
    return metrics.evaluate(HeldOut.of(known, test, scores.shape[1]), lambda users: scores[users]).means


def pairs(user_count: int, item_count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns known and held-out (user, item) pairs: two disjoint arrays, [n, 2] and [m, 2] int64.

    Every user has another share of the catalogue, up to about 20 % in each array. User 0 has no known item, user 1 no
    held-out one.
    """
    generator = np.random.default_rng(seed)
    draw = generator.random((user_count, item_count))
    share = generator.uniform(0.0, 0.2, size=(user_count, 2))
    known = draw < share[:, :1]
    test = (draw > 0.5) & (draw < 0.5 + share[:, 1:])
    known[0] = False  # cold: no known item
    test[1] = False  # nothing held out
    return np.argwhere(known), np.argwhere(test)


@pytest.mark.parametrize("item_count", [300, 70, 12])
@pytest.mark.parametrize("levels", [1, 3, 40, None], ids=["constant", "many ties", "some ties", "no ties"])
def test_agrees_with_the_reference(item_count: int, levels: int | None) -> None:
    generator = np.random.default_rng(item_count)
    known, test = pairs(80, item_count, seed=item_count)
    scores = generator.normal(size=(80, item_count)).astype(np.float32)
    if levels is not None:
        scores = generator.integers(0, levels, size=scores.shape).astype(np.float32)
    expected = reference.evaluate(scores, known, test, 80, item_count)
    found = evaluate(scores, known, test)
    assert found.pop("hr@10") == pytest.approx(expected["hit@10"], abs=1e-9)
    assert 0 <= found.pop("map@10") <= 1
    assert set(found) == set(NAMES)
    assert found == pytest.approx({name: expected[name] for name in NAMES}, abs=1e-9)


def test_slices_of_users_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known, test = pairs(50, 100, seed=3)
    scores = np.random.default_rng(3).normal(size=(50, 100))
    whole = evaluate(scores, known, test)
    monkeypatch.setattr(metrics, "_CELLS", 700)  # seven users are asked for at a time
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 300)  # and three ranked
    assert evaluate(scores, known, test) == pytest.approx(whole, abs=1e-12)


def test_worked_example() -> None:
    # User 0 knows item 0, held out are 2 and 4. Without item 0 the ranking is 4, 1, 2, 3, 5: hits at ranks 1 and 3.
    #   DCG = 1/log2(2) + 1/log2(4) = 1.5; ideal = 1/log2(2) + 1/log2(3) = 1.630930; NDCG = 0.919721; 1/rank = 1
    # User 1 knows item 5, held out is 1. Without item 5 the ranking is 4, 3, 2, 1, 0: a hit at rank 4.
    #   NDCG = 1/log2(5) = 0.430677; 1/rank = 0.25
    # Both recall all; item 0 is shown to user 1 and item 5 to user 0, so all six are shown.
    scores = np.array([[9.0, 4.0, 3.0, 2.0, 5.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    found = evaluate(scores, np.array([[0, 0], [1, 5]]), np.array([[0, 2], [0, 4], [1, 1]]))
    assert found["ndcg@10"] == pytest.approx((0.919721 + 0.430677) / 2, abs=1e-6)
    assert found["mrr"] == pytest.approx((1 + 0.25) / 2)
    assert found["recall@10"] == 1.0
    assert found["coverage@10"] == 1.0


def test_constant_scores_are_at_chance() -> None:
    # 190 candidates, one relevant: a top 10 at random holds it with 10/190 = 0.053; 2,000 users, error 0.005.
    generator = np.random.default_rng(5)
    order = np.argsort(generator.random((2000, 200)), axis=1)
    known = np.array([(user, item) for user in range(2000) for item in sorted(order[user, :10])])
    test = np.stack([np.arange(2000), order[:, 10]], axis=1)
    found = evaluate(np.zeros((2000, 200), dtype=np.float32), known, test)
    assert found["recall@10"] == pytest.approx(0.053, abs=0.02)


@pytest.mark.parametrize("first", [0, 90])
def test_ties_favour_neither_end_of_the_catalogue(first: int) -> None:
    known = np.array([[user, 50] for user in range(10)])
    test = np.array([[user, first + user] for user in range(10)])
    assert evaluate(np.zeros((10, 100)), known, test)["recall@10"] <= 0.5


def test_an_oracle_scores_one() -> None:
    known, test = pairs(40, 30, seed=9)  # at most a fifth of 30 items is relevant
    scores = np.zeros((40, 30))
    scores[test[:, 0], test[:, 1]] = 1.0
    found = evaluate(scores, known, test)
    for name in NAMES[:-1]:
        assert found[name] == pytest.approx(1.0), name


def test_refuses_nan() -> None:
    scores = np.array([[0.0, np.nan, 1.0]])
    with pytest.raises(ValueError, match="NaN"):
        evaluate(scores, np.array([[0, 0]]), np.array([[0, 2]]))


def test_refuses_to_evaluate_nobody() -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(np.zeros((2, 3)), np.array([[0, 0]]), np.array([[1, 2]]))


def test_repeated_events_count_once() -> None:
    users, items = np.array([0, 0, 0, 1], dtype=np.int32), np.array([2, 1, 2, 0], dtype=np.int32)
    events = Events(users, items, np.arange(4.0), np.ones(4, dtype=np.float32))
    assert events.pairs.tolist() == [[0, 1], [0, 2], [1, 0]]


def test_items_already_known_do_not_count() -> None:
    known = np.array([[0, 0], [0, 1], [1, 1]])
    test = np.array([[0, 1], [0, 2], [1, 1]])
    held_out = HeldOut.of(known, test, 4)
    assert held_out.users.tolist() == [0]  # all that user 1 has is known
    assert [rows.tolist() for rows in held_out.relevant] == [[2]]
    assert [rows.tolist() for rows in held_out.known] == [[0, 1]]


def test_map_counts_the_precision_at_each_hit() -> None:
    # One user knows item 0; of items 1 to 5 the ranking is 5, 4, 3, 2, 1, and 5, 3 and 1 are held out:
    # precision at the hits is 1, 2/3 and 3/5, over three relevant items.
    found = evaluate(np.array([[9.0, 1, 2, 3, 4, 5]]), np.array([[0, 0]]), np.array([[0, 1], [0, 3], [0, 5]]))
    assert found["map@10"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_repeats_count_where_asked_for_and_nothing_is_left_out() -> None:
    known, test = np.array([[0, 0], [0, 1]]), np.array([[0, 0], [0, 2]])
    scores = np.array([[3.0, 2.0, 1.0, 0.0]])
    novel = metrics.evaluate(HeldOut.of(known, test, 4), lambda _: scores)
    both = metrics.evaluate(HeldOut.of(known, test, 4, repeats=True), lambda _: scores)
    # Novel: items 2 and 3 compete, item 2 is first. Both: items 0 and 2 of the ranking 0, 1, 2, 3.
    assert (novel.means["ndcg@10"], novel.top[0].tolist()) == (1.0, [2, 3] + [-1] * 8)
    assert both.means["ndcg@10"] == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert both.top[0].tolist() == [0, 1, 2, 3] + [-1] * 6


COUNTS = np.array([7, 3, 0, 2])  # with one more each: 8, 4, 1, 3 of 16
TWO_USERS = np.array([[0.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
"""User 0 knows item 0 and is shown 1, 2, 3; user 1 knows items 1 and 2 and is shown 0 and 3."""
KNOWN, TAKEN = np.array([[0, 0], [1, 1], [1, 2]]), np.array([[0, 2], [0, 3], [1, 0]])


def test_novelty_is_the_information_of_what_is_shown() -> None:
    held_out = HeldOut.of(KNOWN, TAKEN, 4, item_counts=COUNTS)
    found = metrics.evaluate(held_out, lambda users: TWO_USERS[users])
    # Items have -log2(8 / 16) = 1, 2, 4 and log2(16 / 3) bits.
    third = np.log2(16 / 3)
    assert found.per_user["novelty@10"].tolist() == pytest.approx([(2 + 4 + third) / 3, (1 + third) / 2])


def test_popularity_lift_compares_the_means_of_what_is_shown_and_what_is_taken() -> None:
    held_out = HeldOut.of(KNOWN, TAKEN, 4, item_counts=COUNTS)
    found = metrics.evaluate(held_out, lambda users: TWO_USERS[users])
    # Shown: 5/3 events an item to user 0, 9/2 to user 1; taken: (0 + 2) / 2 = 1 and 7, with a mean of 4.
    assert found.per_user["popularity_lift@10"].tolist() == pytest.approx([(8 / 3) / 5 - 1, (11 / 2) / 5 - 1])
    assert found.means["popularity_lift@10"] == pytest.approx((37 / 12 + 1) / 5 - 1)
    # Alone, each is compared with what it takes itself.
    for user, lift in ((0, (8 / 3) / 2 - 1), (1, (11 / 2) / 8 - 1)):
        assert found.where(found.users == user).means["popularity_lift@10"] == pytest.approx(lift)


def test_popularity_is_left_out_where_nobody_counted() -> None:
    found = metrics.evaluate(HeldOut.of(KNOWN, TAKEN, 4), lambda users: TWO_USERS[users])
    assert not {"novelty@10", "popularity_lift@10"} & found.means.keys()


def test_repeats_agree_with_the_reference_that_excludes_nothing() -> None:
    generator = np.random.default_rng(8)
    known, test = pairs(60, 300, seed=8)
    both = np.unique(np.concatenate([test, known[::3]]), axis=0)
    scores = generator.integers(0, 40, (60, 300)).astype(np.float32)
    found = metrics.evaluate(HeldOut.of(known, both, 300, repeats=True), lambda users: scores[users])
    expected, per_user = reference.evaluate(
        scores, np.zeros((0, 2), dtype=int), both, 60, 300, users=np.intersect1d(known[:, 0], both[:, 0]),
        return_per_user=True,
    )  # fmt: skip
    assert found.users.tolist() == per_user["user"].tolist()
    for name in NAMES[:-1]:
        np.testing.assert_allclose(found.per_user[name], per_user[name], atol=1e-9, err_msg=name)
    assert found.means["coverage@10"] == pytest.approx(expected["coverage@10"])


def test_a_group_of_users_is_evaluated_on_its_own() -> None:
    known, test = pairs(40, 60, seed=3)
    scores = np.random.default_rng(5).normal(size=(40, 60))
    counts = np.bincount(known[:, 1], minlength=60)
    whole = metrics.evaluate(HeldOut.of(known, test, 60, item_counts=counts), lambda users: scores[users])
    odd = whole.users % 2 == 1
    alone = metrics.evaluate(
        HeldOut.of(known[known[:, 0] % 2 == 1], test[test[:, 0] % 2 == 1], 60, item_counts=counts),
        lambda users: scores[users],
    )
    assert whole.where(odd).means == pytest.approx(alone.means)


def test_what_is_not_found_is_no_hit_and_has_no_rank() -> None:
    # 12 items, of which a search found items 5 and 6 alone; item 3 and item 6 are held out.
    scores = np.full((1, 12), -np.inf)
    scores[0, [5, 6]] = [0.9, 0.8]
    held_out = HeldOut.of(np.array([[0, 0]]), np.array([[0, 3], [0, 6]]), 12)
    found = metrics.evaluate(held_out, lambda _: scores)
    assert (found.means["recall@10"], found.means["recall@100"], found.means["mrr"]) == (0.5, 0.5, 0.5)
    assert found.top[0].tolist() == [5, 6] + [-1] * 8
    nothing = metrics.evaluate(held_out, lambda _: np.full((1, 12), -np.inf)).means
    assert (nothing["recall@100"], nothing["mrr"], nothing["coverage@10"]) == (0.0, 0.0, 0.0)
