"""Mistakes that make a model look too good, such as leakage: each is refused, harmless or visible in the output."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, dataset, recipe
from trainer.data import splits
from trainer.data.dataset import Dataset, Events
from trainer.data.splits import Data, Parts
from trainer.errors import DataError
from trainer.evaluation.evaluate import (
    POPULARITY,
    Evaluation,
    Task,
    evaluate_test,
    evaluate_validation,
    popularity_scorer,
)
from trainer.evaluation.metrics import HeldOut, Scorer, evaluate
from trainer.features.schemas import learn_schemas
from trainer.model import towers
from trainer.model.trained_model import TrainedModel
from trainer.recipe.recipe import Split

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

RECIPE = recipe()
USER_COUNT, ITEM_COUNT, EVENT_COUNT = 80, 40, 9
OF_EVENTS = ("novelty@10", "popularity_lift@10")
"""Metrics that follow the number of known events of an item."""


@dataclass(frozen=True)
class Market:
    """Data of 80 users with nine events each on 40 items, some of them repeated, and untrained towers.

    Attributes:
        dataset: Data set.
        parts: Parts of a leave-last-one-out split.
        model: Towers that were not trained, with schemas of the training part.
    """

    dataset: Dataset
    parts: Parts
    model: TrainedModel

    def evaluate(self, parts: Parts, repeats: bool = False, **others: Scorer) -> Evaluation:
        return evaluate_test(self.model, Data(self.dataset, parts), repeats=repeats, others=others)

    def scores(self, known: Events, asked: Events) -> np.ndarray:
        task = Task(self.model, self.dataset, known, asked)
        return task.scorer()(np.arange(USER_COUNT))


@pytest.fixture(scope="module")
def market() -> Market:
    generator = np.random.default_rng(17)
    bought = [
        (f"u{user:02}", f"i{item:02}", float(at))
        for user in range(USER_COUNT)
        for at, item in enumerate(generator.integers(0, ITEM_COUNT, EVENT_COUNT))
    ]
    users = {f"u{user:02}": {"age": 20.0 + user, "gender": "fm"[user % 2]} for user in range(USER_COUNT)}
    data = dataset(bought, users, {f"i{item:02}": {"year": 1980 + item} for item in range(ITEM_COUNT)})
    parts = splits.split(data, Split("leave_last_one_out"))
    schemas = learn_schemas(RECIPE, data, parts.train)
    keras.utils.set_random_seed(2)
    query_tower, item_tower = towers.build(RECIPE, schemas)
    return Market(data, parts, TrainedModel(RECIPE, schemas, (query_tower.model, item_tower.model)))


def remembering(events: Events) -> Scorer:
    """Returns a scorer that gives 1 to the items of a user's events, and 0 to all other items."""
    has = np.zeros((USER_COUNT, ITEM_COUNT), dtype=np.float32)
    has[events.users, events.items] = 1.0
    return lambda users: has[users]


def constant(users: np.ndarray) -> np.ndarray:
    return np.zeros((len(users), ITEM_COUNT), dtype=np.float32)


def at_random(users: np.ndarray) -> np.ndarray:
    return np.random.default_rng(3).random((USER_COUNT, ITEM_COUNT))[users]


def exchanged(events: Events) -> Events:
    """Returns a copy of the events in which each event has another item."""
    return dataclasses.replace(events, items=((events.items + 7) % ITEM_COUNT).astype(np.int32))


def test_what_is_held_out_moves_no_score(market: Market) -> None:
    parts = market.parts
    moved = Parts(parts.train, parts.valid, exchanged(parts.test))
    before, after = (market.scores(p.known, p.test) for p in (parts, moved))
    np.testing.assert_array_equal(before, after)
    first, second = (popularity_scorer(p.known, ITEM_COUNT)(np.array([0])) for p in (parts, moved))
    np.testing.assert_array_equal(first, second)


def test_a_history_that_holds_the_target_does_move_them(market: Market) -> None:
    """Shows that the test above can fail."""
    parts = market.parts
    leaking, moved = (splits.merge(parts.known, test) for test in (parts.test, exchanged(parts.test)))
    before, after = (market.scores(known, parts.test) for known in (leaking, moved))
    assert (np.abs(before - after).max(axis=1) > 1e-4).all()


def test_towers_fitted_on_the_test_part_have_nothing_left_to_be_evaluated_on(market: Market) -> None:
    parts = market.parts
    leaking = Parts(splits.merge(parts.train, parts.test), parts.valid, parts.test)
    with pytest.raises(DataError, match="nothing to evaluate"):
        market.evaluate(leaking)


def test_a_test_event_that_was_trained_on_is_counted_as_a_repeat_and_not_as_a_hit(market: Market) -> None:
    parts = market.parts
    known = {tuple(pair) for pair in parts.known.pairs.tolist()}
    novel = [at for at, pair in enumerate(zip(parts.test.users, parts.test.items, strict=True)) if pair not in known]
    one = parts.test.take(np.array(novel[:1]))
    leaking = Parts(splits.merge(parts.train, one), parts.valid, parts.test)
    honest, found = market.evaluate(parts), market.evaluate(leaking)
    assert honest.user_count == len(novel)
    assert found.user_count == len(novel) - 1
    # 80 test events, one a user: each is an eightieth.
    assert honest.repeat_share == pytest.approx(1 - len(novel) / 80)
    assert found.repeat_share == pytest.approx(1 - (len(novel) - 1) / 80)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_knowing_what_a_user_had_is_worth_nothing_where_repeats_do_not_count(market: Market, part: str) -> None:
    memory = remembering(getattr(market.parts, part))
    found = market.evaluate(market.parts, memory=memory, constant=constant)
    assert found.metrics["memory"] == found.metrics["constant"]
    # Where they count, it is worth something: the trap is there to be fallen into.
    repeats = market.evaluate(market.parts, repeats=True, memory=memory, constant=constant)
    assert repeats.metrics["memory"] != repeats.metrics["constant"]


def test_a_recipe_says_whether_repeats_count_in_validation_and_test(market: Market) -> None:
    counting = dataclasses.replace(RECIPE, split=dataclasses.replace(RECIPE.split, repeats=True))
    data, counting_model = Data(market.dataset, market.parts), dataclasses.replace(market.model, recipe=counting)
    assert evaluate_test(counting_model, data) == market.evaluate(market.parts, repeats=True)
    assert evaluate_test(market.model, data) == market.evaluate(market.parts, repeats=False)
    assert evaluate_test(counting_model, data, repeats=False) == market.evaluate(market.parts, repeats=False)
    known, asked = market.parts.train, market.parts.valid
    for model, repeats in ((counting_model, True), (market.model, False)):
        held_out = HeldOut.of(known.pairs, asked.pairs, ITEM_COUNT, repeats=repeats)
        task = Task(model, market.dataset, known, asked)
        assert evaluate_validation(model, data) == evaluate(held_out, task.scorer()).means


def test_constant_scores_are_at_chance_and_an_oracle_at_one(market: Market) -> None:
    found = market.evaluate(market.parts, constant=constant, oracle=remembering(market.parts.test))
    # Known are 8 events, of at most 8 of 40 items; of 32 to 39 candidates ten are shown: 0.26 to 0.31 of about 65
    # users, standard error 0.06.
    assert found.metrics["constant"]["hr@10"] == pytest.approx(0.29, abs=0.18)
    for name in ("recall@10", "ndcg@10", "mrr", "map@10", "hr@10"):
        assert found.metrics["oracle"][name] == 1.0, name


def test_duplicates_count_once(market: Market) -> None:
    parts = market.parts

    def twice(events: Events) -> Events:
        return events.take(np.repeat(np.arange(len(events)), 2))

    expected = market.evaluate(parts, random=at_random)
    tested = market.evaluate(Parts(parts.train, parts.valid, twice(parts.test)), random=at_random)
    assert tested.metrics == expected.metrics
    assert tested.repeat_share == expected.repeat_share
    known = market.evaluate(Parts(twice(parts.train), twice(parts.valid), parts.test), random=at_random)
    for method in ("random", POPULARITY):
        ranked, once = (
            {name: value for name, value in of.metrics[method].items() if name not in OF_EVENTS}
            for of in (known, expected)
        )
        assert ranked == once, method


@pytest.mark.parametrize("kind", ["leave_last_one_out", "global_temporal", "random"])
def test_relevant_items_are_disjoint_from_what_is_known(market: Market, kind: str) -> None:
    parts = splits.split(market.dataset, Split(kind))
    known_pairs = {tuple(pair) for pair in parts.known.pairs.tolist()}
    held_out = HeldOut.of(parts.known.pairs, parts.test.pairs, ITEM_COUNT)
    relevant = [
        (int(user), int(item)) for user, items in zip(held_out.users, held_out.relevant, strict=True) for item in items
    ]
    assert relevant
    assert not known_pairs & set(relevant)
    test_pairs = {tuple(pair) for pair in parts.test.pairs.tolist()}
    assert test_pairs & known_pairs  # there are repeats that could have slipped in
    assert set(relevant) == test_pairs - known_pairs - {
        pair for pair in test_pairs if pair[0] not in set(parts.known.users.tolist())
    }
    top = evaluate(held_out, at_random).top
    shown = {(int(u), int(i)) for u, row in zip(held_out.users, top, strict=True) for i in row if i >= 0}
    assert not shown & known_pairs


def test_a_later_event_changes_the_figures_of_its_own_user_alone(market: Market) -> None:
    parts = market.parts
    # User 0 meets every item of the catalogue after all that is known.
    future = Events(
        np.zeros(ITEM_COUNT, dtype=np.int32),
        np.arange(ITEM_COUNT, dtype=np.int32),
        np.full(ITEM_COUNT, 99.0),
        np.ones(ITEM_COUNT, dtype=np.float32),
    )
    per_user = []
    for test in (parts.test, splits.merge(parts.test, future)):
        held_out = HeldOut.of(parts.known.pairs, test.pairs, ITEM_COUNT)
        task = Task(market.model, market.dataset, parts.known, test)
        found = evaluate(held_out, task.scorer())
        per_user.append(dict(zip(found.users.tolist(), found.per_user["mrr"].tolist(), strict=True)))
    before, after = per_user
    assert after.pop(0) == 1.0  # every candidate is relevant, so the first one is
    before.pop(0, None)
    assert before == after
