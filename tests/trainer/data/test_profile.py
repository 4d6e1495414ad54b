"""The summary of a data set, and warnings about suspicious data."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from retrieval.bundle.catalogue.items import COLUMN_TYPES, ItemTable
from tests.trainer.world import dataset, recipe
from trainer.data import data_checks
from trainer.data.dataset import Dataset, Events
from trainer.data.profile import Part, Spread, Summary
from trainer.data.splits import Data, Parts, split
from trainer.recipe.recipe import Recipe

DAY = 86_400.0
NOON = 1_700_000_000.0
"""2023-11-14T22:13:20Z, of a Tuesday."""
NOW = NOON + 100 * DAY


def notes(data: Dataset, recipe_: Recipe | None = None) -> list[str]:
    return data_checks.find_mistakes(recipe_ or recipe(), data, now=NOW)


def purchases(times: Sequence[float]) -> list[tuple[str, str, float]]:
    return [(f"u{n:03}", f"p{n % 7}", time) for n, time in enumerate(times)]


def clean(times: Sequence[float] = tuple(NOON + 60 * n for n in range(40))) -> Dataset:
    """40 people, one purchase each, of seven items that are described and differ."""
    items = {f"p{n}": {"title": f"T{n}", "year": 1990 + n, "genres": ["a", "b"][: 1 + n % 2]} for n in range(7)}
    users = {f"u{n:03}": {"age": 20.0 + n, "gender": "fm"[n % 2]} for n in range(len(times))}
    return dataset(purchases(times), users, items)


def test_figures_are_those_of_the_data() -> None:
    # amy buys p1 (twice), p2, p3; bob buys p2, p4; cem nothing; p5 is bought by nobody.
    bought = [
        ("amy", "p1", NOON),
        ("amy", "p1", NOON + DAY),
        ("amy", "p2", NOON + 2 * DAY),
        ("amy", "p3", NOON + 3 * DAY),
        ("bob", "p2", NOON + 4 * DAY),
        ("bob", "p4", NOON + 5 * DAY),
    ]
    data = dataset(bought, {u: {} for u in ("amy", "bob", "cem")}, {f"p{n}": {} for n in range(1, 6)})
    part = split(data, recipe(split={"kind": "global_temporal", "valid_share": 0.2, "test_share": 0.2}).split)
    # Of times 0 to 5 days: test begins at index int(.8 * 6) = 4, validation at int(.6 * 6) = 3.
    summary = Summary.of(recipe(split={"kind": "global_temporal"}), Data(data, part))
    assert (summary.user_count, summary.item_count, summary.event_count, summary.pair_count) == (3, 5, 6, 5)
    assert summary.density == pytest.approx(5 / 15)
    assert (summary.first, summary.last) == ("2023-11-14T22:13:20Z", "2023-11-19T22:13:20Z")
    # Events a user: 4 and 2. Their 95th percentile lies at .95 of the way from 2 to 4. An item: 2, 2, 1, 1.
    assert summary.events_per_user == Spread(3.0, pytest.approx(3.9), 4)
    assert summary.events_per_item == Spread(1.5, 2.0, 2)
    assert (summary.users_without_events, summary.items_without_events) == (1, 1)
    # Train holds amy with p1 and p2; validation amy with p3, new; the test bob, new, with p2 and with p4, new.
    assert summary.parts == {"train": Part(3, 0.0, 0.0), "valid": Part(1, 0.0, 1.0), "test": Part(2, 1.0, 0.5)}


def test_a_summary_is_json_and_rows() -> None:
    data = clean()
    third = np.arange(40) % 3
    parts = Parts(*(data.events.where(third == n) for n in range(3)))
    summary = Summary.of(recipe(), Data(data, parts))
    read = json.loads(json.dumps(summary.to_json()))
    assert read["parts"]["test"] == {"event_count": 13, "cold_user_share": 1.0, "cold_item_share": 0.0}
    assert read["events_per_user"] == {"median": 1.0, "p95": 1.0, "largest": 1}
    rows = dict(summary.rows())
    assert rows["interactions"] == "40, 40 distinct pairs, density 14.29%"  # 40 of 40 * 7
    assert rows["times"] == "2023-11-14T22:13:20Z to 2023-11-14T22:52:20Z"
    assert rows["of users without training"] == "100.0% of valid, 100.0% of test"


def test_the_range_of_times_is_left_out_where_rows_stand_for_them() -> None:
    data = clean(range(40))
    without = recipe(interactions={"time": None})
    summary = Summary.of(without, Data(data, Parts(data.events, data.events, data.events)))
    assert (summary.first, summary.last, summary.notes) == (None, None, ())
    assert dict(summary.rows())["times"] == "none: the order of the rows counts"


def test_nothing_is_odd_about_clean_data() -> None:
    assert notes(clean()) == []


def test_repeated_rows_are_counted() -> None:
    data = clean()
    twice = data.events.take(np.array([0, 1, 1, 1, *range(2, 40)]))
    (note,) = notes(Dataset(twice, data.user_ids, data.items, data.user_columns, ()))
    assert note.startswith("2 interactions repeat another one in user, item and time")


def test_a_user_with_much_of_all_is_named() -> None:
    big = [("robot", f"p{n % 7}", NOON + n) for n in range(50)]
    found = notes(dataset([*purchases([NOON + 60 * n for n in range(200)]), *big]))
    assert found[0].startswith("user 'robot' has 20.0% of all interactions (50)")
    few = [(user, f"p{n}", NOON + 9 * n) for n in range(7) for user in ("amy", "bob", "cem")]
    assert not any("all interactions" in note for note in notes(dataset(few)))


def test_times_of_1970_and_of_the_future_are_counted() -> None:
    found = notes(clean([0.0, 5.0, NOW + 3 * DAY, *(NOON + 60 * n for n in range(37))]))
    assert [note.split(":")[0] for note in found] == [
        "2 interactions are dated before 1971",
        "1 interactions lie in the future",
    ]


def test_a_moment_with_many_interactions_is_named() -> None:
    (note,) = notes(clean([*[NOON] * 10, *(NOON + 60 * n for n in range(1, 31))]))
    assert note.startswith("10 interactions (25.0%) have the same time, 1700000000 s since 1970")


def test_an_order_that_only_rows_decide_is_measured() -> None:
    # 20 of the 60 interactions share their time with another one of the same user.
    bought = [(f"u{n:03}", f"p{k}", NOON + 99 * n + (k if n > 9 else k // 2)) for n in range(20) for k in range(3)]
    found = [note for note in notes(dataset(bought)) if "share their time" in note]
    assert [note[:5] for note in found] == ["33.3%"]


def test_items_without_attributes_and_poor_columns_are_named() -> None:
    items = {f"p{n}": {"title": "same" if n else None, "genres": ["a"]} for n in range(7)}
    items["p0"] = {}
    users = {f"u{n:03}": {"age": 30.0 if n == 3 else None, "gender": "fm"[n % 2]} for n in range(40)}
    found = notes(dataset(purchases([NOON + 60 * n for n in range(40)]), users, items))
    assert found == [
        "1 items have no attribute at all: nothing but their own interactions can place them.",
        "items.attributes.title has the one value 'same': it can teach nothing; leave it out.",
        "items.attributes.year is missing in 100.0% of the rows: it can teach little; leave it out, or fill it in.",
        "items.attributes.genres has the one value ('a',): it can teach nothing; leave it out.",
        "users.attributes.age is missing in 97.5% of the rows: it can teach little; leave it out, or fill it in.",
    ]


def test_poor_event_attributes_are_named() -> None:
    events = clean().events
    phones = np.array(["phone"] * 40, dtype=object)
    table = ItemTable.of(tuple(f"p{n}" for n in range(7)), {"year": COLUMN_TYPES["int"].of(list(range(7)))})
    data = Dataset(
        Events(events.users, events.items, events.times, events.weights, {"device": phones}),
        clean().user_ids,
        table,
        {},
        (),
    )
    source = {"attributes": {"device": {"column": "device"}}}
    assert notes(data, recipe(interactions=source)) == [
        "interactions.attributes.device has the one value 'phone': it can teach nothing; leave it out."
    ]
