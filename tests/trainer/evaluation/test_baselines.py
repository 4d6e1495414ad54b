"""Scores of the baselines, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from retrieval.bundle.catalogue.items import ItemTable
from tests.trainer.world import Recorded
from trainer.data.dataset import Dataset, Events
from trainer.data.splits import Data, Parts
from trainer.evaluation import baseline_methods, baselines
from trainer.evaluation.baselines import BASELINES, Baseline, Known, fit_all
from trainer.evaluation.metrics import HeldOut, Scorer, evaluate


def events(*rows: tuple[int, int, float]) -> Events:
    """Returns events of (user, item, time), which are sorted already."""
    users, items, times = zip(*rows, strict=True)
    return Events(
        np.array(users, np.int32), np.array(items, np.int32), np.array(times, float), np.ones(len(rows), np.float32)
    )


# User 0 met items 0, 1, 0; user 1 items 0, 2; user 2 item 1; user 3 nothing. Item 3 is nobody's.
EVENTS = events((0, 0, 0.0), (0, 1, 4.0), (0, 0, 6.0), (1, 0, 2.0), (1, 2, 8.0), (2, 1, 10.0))
KNOWN = Known(EVENTS, 4, 4)
POPULAR = [3.0, 2.0, 1.0, 0.0]


def scores(method: str, users: Sequence[int], **settings: float) -> list[list[float]]:
    return BASELINES[method].fit(KNOWN, **settings)(np.array(users)).tolist()


def test_popularity_counts_events() -> None:
    assert scores("popularity", [0, 3]) == [POPULAR, POPULAR]


def test_recent_popularity_halves_with_age() -> None:
    # Half-life a fifth of 10: ages 10, 6, 4, 8, 2, 0 are worth 1/32, 1/8, 1/4, 1/16, 1/2, 1.
    assert scores("recent popularity", [0], half_life=0.2)[0] == pytest.approx(
        [1 / 32 + 1 / 4 + 1 / 16, 9 / 8, 0.5, 0.0]
    )


def test_recent_popularity_of_sequences_counts_places_from_the_end() -> None:
    # The file holds user 1 before user 0; 2 events later than the oldest is the greatest age, a half-life half of it.
    # User 0 met 0, 1, 2 (ages 2, 1, 0, worth 1/4, 1/2, 1), user 1 met 2, 0 (ages 1, 0, worth 1/2, 1).
    known = Known(events((0, 0, 2.0), (0, 1, 3.0), (0, 2, 4.0), (1, 2, 0.0), (1, 0, 1.0)), 2, 3)
    found = BASELINES["recent popularity"].fit(known, half_life=0.5)(np.array([0]))[0]
    assert found.tolist() == pytest.approx([5 / 4, 1 / 2, 3 / 2])


def test_item_knn_sums_cosines_and_shrinks_them() -> None:
    # Items 0, 1, 2 have 2, 2, 1 users; 0 and 1 share user 0, 0 and 2 share user 1.
    # cos(0, 1) = 1 / (2 + 1), cos(0, 2) = 1 / (sqrt 2 + 1) with a shrinkage of 1.
    first, second = 1 / 3, 1 / (np.sqrt(2) + 1)
    found = scores("ItemKNN", [0, 1, 2, 3], neighbours=10, shrinkage=1.0)
    assert found[0] == pytest.approx([first, first, second, 0.0])  # of items 0 and 1
    assert found[1] == pytest.approx([second, first, second, 0.0])  # of items 0 and 2
    assert found[2] == pytest.approx([first, 0.0, 0.0, 0.0])
    assert found[3] == POPULAR  # nothing is known


def test_item_knn_keeps_the_nearest_alone() -> None:
    # The nearest to item 0 is item 2 (1 / sqrt 2) and not item 1 (1 / 2); to items 1 and 2 it is item 0.
    found = scores("ItemKNN", [2, 1], neighbours=1, shrinkage=0.0)
    assert found[0] == [0.0, 0.0, 0.0, 0.0]  # user 2 has item 1, which is nobody's nearest
    assert found[1] == pytest.approx([1 / np.sqrt(2), 0.5, 1 / np.sqrt(2), 0.0])  # user 1 has items 0 and 2


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    matrix = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], float)
    weights = np.zeros((4, 4))
    for item in range(4):
        others = [other for other in range(4) if other != item]
        x = matrix[:, others]
        weights[others, item] = np.linalg.solve(x.T @ x + 2.0 * np.eye(3), x.T @ matrix[:, item])
    found = scores("EASE", [0, 1, 2], ridge=2.0)
    np.testing.assert_allclose(found, (matrix @ weights)[:3], atol=1e-6)


@pytest.mark.parametrize("method", ["EASE", "ItemKNN"])
def test_blocks_of_items_change_no_score(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"EASE": {"ridge": 3.0}, "ItemKNN": {"neighbours": 5, "shrinkage": 1.0}}[method]
    train, users = parts().train, np.arange(40)
    whole = BASELINES[method].fit(Known(train, 40, 30), **settings)(users)
    monkeypatch.setattr(baseline_methods, "_BLOCK", 7)
    np.testing.assert_allclose(BASELINES[method].fit(Known(train, 40, 30), **settings)(users), whole, atol=1e-5)


def test_ridge_that_leaves_no_inverse_is_refused() -> None:
    # Nobody met item 3: without a ridge its row is 0.
    with pytest.raises(ValueError, match="ridge is too small"):
        scores("EASE", [0], ridge=0.0)


@pytest.mark.parametrize("method", ["recent popularity", "ItemKNN", "EASE", "EASE with recency", "iALS"])
def test_methods_give_popularity_to_users_without_events(method: str) -> None:
    if method == "recent popularity":
        assert scores(method, [3], half_life=0.2) == scores(method, [0], half_life=0.2)
    else:
        assert scores(method, [3], **BASELINES[method].grid[0]) == [POPULAR]


def test_ease_with_recency_weighs_the_newest_most() -> None:
    even = np.array(scores("EASE", [0], ridge=2.0))
    # User 0 met item 0 last (rank 0) and item 1 before it (rank 1): rows 1 and 0.5 of the same weights.
    alone = [np.array(baselines.ease(KNOWN, ridge=2.0)(np.array([user]))) for user in (0, 2)]
    found = np.array(scores("EASE with recency", [0], ridge=2.0, decay=0.5))
    of_one = alone[1]  # user 2 has item 1 alone
    np.testing.assert_allclose(found, (even - of_one) + 0.5 * of_one, atol=1e-6)


def test_repeats_rank_own_items_by_count_and_the_rest_by_popularity() -> None:
    found = scores("repeat frequency", [0, 3])
    assert found[0] == pytest.approx([2 + 3 / 4, 1 + 2 / 4, 1 / 4, 0.0])
    assert found[1] == pytest.approx([3 / 4, 2 / 4, 1 / 4, 0.0])


def test_ials_finds_two_tastes() -> None:
    rows = [(user, item, 0.0) for user in range(20) for item in range(10) if item % 2 == user % 2 and item != user % 10]
    known = Known(events(*rows), 20, 10)
    found = BASELINES["iALS"].fit(known, factors=2, alpha=5.0, regularisation=0.1, iterations=15)(np.arange(20))
    for user in range(20):
        missing, foreign = found[user, user % 10], found[user, 1 - user % 2 :: 2]
        assert missing > foreign.max() + 0.3


def made(parts: Parts) -> Data:
    """Returns the data set of a split: 40 users and 30 items."""
    items = ItemTable.of(tuple(f"i{item:02}" for item in range(30)), {})
    return Data(Dataset(parts.known, tuple(f"u{user:02}" for user in range(40)), items, {}, ()), parts)


def parts() -> Parts:
    """Users of even and odd rows like even and odd items; the last two of each user are held out."""
    generator = np.random.default_rng(2)
    train, valid, test = [], [], []
    for user in range(40):
        items = generator.permutation(np.arange(user % 2, 30, 2))[:8]
        train += [(user, int(item), float(at)) for at, item in enumerate(items[:6])]
        valid.append((user, int(items[6]), 7.0))
        test.append((user, int(items[7]), 8.0))
    return Parts(events(*train), events(*valid), events(*test))


def test_all_are_fitted_and_those_that_know_the_user_beat_popularity() -> None:
    split = parts()
    progress = Recorded()
    fitted, notes, validation = fit_all(made(split), progress=progress)
    assert set(fitted) == set(BASELINES) - {"repeat frequency"}
    assert any(note.startswith("EASE: ridge") for note in notes)
    assert any(step.startswith("iALS, setting") for step in progress.steps)
    held_out = HeldOut.of(split.known.pairs, split.test.pairs, 30)
    found = {name: evaluate(held_out, scorer).means["recall@10"] for name, scorer in fitted.items()}
    for name in ("ItemKNN", "EASE", "EASE with recency", "iALS"):
        assert found[name] > 0.8 > 0.7 > found["popularity"]
    assert set(validation) == {"recent popularity", "ItemKNN", "EASE", "EASE with recency", "iALS"}
    assert validation["EASE with recency"] >= validation["EASE"] > validation["recent popularity"]


def test_the_test_part_changes_nothing() -> None:
    split = parts()
    other = Parts(split.train, split.valid, events(*((user, 29, 9.0) for user in range(40))))
    users = np.arange(40)
    for (name, one), two in zip(fit_all(made(split))[0].items(), fit_all(made(other))[0].values(), strict=True):
        np.testing.assert_array_equal(one(users), two(users), err_msg=name)


def test_settings_are_chosen_by_fits_on_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    split, fitted = parts(), []

    def fit(known: Known, *, likes_high: bool) -> Scorer:
        fitted.append((likes_high, len(known.events)))
        return lambda users: np.tile(np.arange(30.0) if likes_high else -np.arange(30.0), (len(users), 1))

    # Everybody takes item 29 next, the highest.
    monkeypatch.setattr(baselines, "BASELINES", {"a": Baseline(fit, [{"likes_high": False}, {"likes_high": True}])})
    train = split.train.where(split.train.items != 29)
    valid = events(*((user, 29, 7.0) for user in range(40)))
    notes = fit_all(made(Parts(train, valid, split.test)))[1]
    assert notes == ["a: likes_high 1, chosen on validation"]
    assert fitted == [(False, len(train)), (True, len(train)), (True, len(train) + 40)]


def test_a_setting_that_two_methods_share_is_tried_once() -> None:
    progress = Recorded()
    fit_all(made(parts()), progress=progress)
    assert not [step for step in progress.steps if step.startswith("EASE, setting")]
    assert "EASE with recency, setting 54 of 54" in progress.steps  # 6 ridges, 9 decays
    assert progress.steps[-5:] == ["recent popularity", "ItemKNN", "EASE", "EASE with recency", "iALS"]


def test_repeat_frequency_is_there_where_repeats_count() -> None:
    assert "repeat frequency" in fit_all(made(parts()), repeats=True)[0]


def test_methods_that_hold_all_events_are_left_out_of_many_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_IN_MEMORY_EVENTS", 20)
    fitted, notes, _ = fit_all(made(parts()))
    assert list(fitted) == ["popularity"]
    assert any(note.startswith("iALS is left out: it needs all events in memory, at most 20,") for note in notes)


def test_dense_methods_are_left_out_of_large_catalogues_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_DENSE_ITEMS", 20)
    fitted, notes, _ = fit_all(made(parts()))
    assert "EASE" not in fitted
    assert "ItemKNN" in fitted
    assert any(note.startswith("EASE is left out") for note in notes)
