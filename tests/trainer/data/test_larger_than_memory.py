"""Tables larger than memory: the result block by block from disk equals the result from memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, recipe
from trainer.data import profile, spill, splits
from trainer.data.dataset import Dataset, load_dataset
from trainer.data.events import Events, StoredColumn
from trainer.errors import DataError
from trainer.features.schemas import learn_schemas
from trainer.progress import SilentTraining
from trainer.recipe.recipe import Recipe
from trainer.training import shuffling
from trainer.training.examples import Examples
from trainer.training.fit import fit

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)
USERS, ITEMS, EVENTS = 40, 30, 900


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores every array of more than 64 bytes in a file, and processes 50 events per block."""
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 64)
    monkeypatch.setattr(spill, "BLOCK", 50)


def requests() -> Recipe:
    """Returns the shop's recipe with every kind of attribute of a request."""
    attributes = {
        "hour": {"column": "hour", "type": "int"},
        "device": {"column": "device"},
        "spent": {"column": "spent", "type": "float"},
        "tags": {"column": "tags", "type": "string_list"},
        "rank": {"column": "rank", "type": "int"},
    }
    features = [
        {"name": "history", "kind": "history", "max_values": 10},
        {"name": "hour", "kind": "categorical", "embedding_dim": 2},
        {"name": "weekday", "kind": "categorical", "embedding_dim": 2},
        {"name": "device", "kind": "categorical", "embedding_dim": 2},
        {"name": "spent", "kind": "numeric"},
        {"name": "tags", "kind": "multi_categorical", "embedding_dim": 2},
        {"name": "rank", "kind": "numeric"},
    ]
    return recipe(
        interactions={"path": "purchases.parquet", "attributes": attributes},
        query_tower={"features": features},
        items={"path": "products.csv"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a shop: one Parquet file of events in random order; the table of users lacks every second user."""
    draw = np.random.default_rng(3)
    spent = [
        None if skip else float(value)
        for skip, value in zip(draw.random(EVENTS) < 0.2, draw.random(EVENTS), strict=True)
    ]
    devices = np.array(["phone", "desktop", None], dtype=object)
    frame = pl.DataFrame(
        {
            "buyer": [f"u{user}" for user in draw.integers(0, USERS, EVENTS)],
            "product": [f"p{item}" for item in (ITEMS * draw.random(EVENTS) ** 2).astype(int)],
            "bought_at": draw.integers(1_700_000_000, 1_700_600_000, EVENTS) // 5000 * 5000,  # many at the same time
            "hour": draw.integers(0, 24, EVENTS),
            "device": devices[draw.integers(0, 3, EVENTS)].tolist(),
            "spent": spent,
            "tags": ["a|b", "b", "", "c|a"] * (EVENTS // 4),
            "rank": [None if rank == 0 else rank for rank in draw.integers(0, 5, EVENTS).tolist()],
        }
    )
    frame.write_parquet(tmp_path / "purchases.parquet", row_group_size=130)
    (tmp_path / "products.csv").write_text(
        "product,title,year,genres\n" + "".join(f"p{item},T{item},{1990 + item},g\n" for item in range(ITEMS))
    )
    (tmp_path / "buyers.csv").write_text(
        "buyer,age,gender\n" + "".join(f"u{user},{20 + user},f\n" for user in range(0, USERS, 2))
    )
    return tmp_path


def content(events: Events) -> dict[str, list[Any]]:
    columns = {name: getattr(events, name).tolist() for name in ("users", "items", "times", "weights")}
    return {**columns, **{name: values.tolist() for name, values in events.attributes.items()}}


def in_memory_and(folder: Path, of: Recipe, request: pytest.FixtureRequest) -> Iterator[Dataset]:
    """Yields the data set twice: read with its arrays in memory, then with its arrays on disk."""
    yield load_dataset(of, folder)
    request.getfixturevalue("on_disk")
    yield load_dataset(of, folder)


def test_events_are_sorted_on_disk_as_a_stable_sort_in_memory_does(folder: Path, on_disk: None) -> None:
    of = requests()
    events = load_dataset(of, folder).events
    assert isinstance(events.attributes["device"], StoredColumn)
    assert isinstance(events.times.base, np.memmap)
    table = pl.read_parquet(folder / "purchases.parquet")
    assert len(set(zip(table["buyer"], table["bought_at"], strict=True))) < EVENTS  # some events tie
    expected = table.sort("buyer", "bought_at", maintain_order=True)
    assert events.times.tolist() == expected["bought_at"].to_list()
    for name in ("hour", "device", "spent", "rank"):
        assert events.attributes[name].tolist() == expected[name].to_list()
    lists = [None if not cell else cell.split("|") for cell in expected["tags"].to_list()]
    assert events.attributes["tags"].tolist() == lists


@pytest.mark.parametrize("kind", ["leave_last_one_out", "global_temporal", "random"])
def test_parts_and_summary_are_those_from_memory(folder: Path, request: pytest.FixtureRequest, kind: str) -> None:
    of = dataclasses.replace(requests(), split=dataclasses.replace(requests().split, kind=kind))
    found = []
    for dataset in in_memory_and(folder, of, request):
        parts = splits.split(dataset, of.split)
        figures = profile.Summary.of(of, splits.Data(dataset, parts)).to_json()
        found.append(([content(part) for part in (parts.train, parts.valid, parts.test, parts.known)], figures))
    assert found[0] == found[1]
    assert sum(len(part["users"]) for part in found[0][0][:3]) == EVENTS


def test_pairs_and_first_times_are_those_from_memory(folder: Path, on_disk: None) -> None:
    events = load_dataset(requests(), folder).events
    pairs = list(zip(events.users.tolist(), events.items.tolist(), strict=True))
    assert [tuple(pair) for pair in events.pairs.tolist()] == sorted(set(pairs))
    assert events.pair_count == len(set(pairs))
    seen: set[tuple[int, int]] = set()
    for pair, is_first in zip(pairs, events.is_first.tolist(), strict=True):
        assert is_first == (pair not in seen)
        seen.add(pair)
    some = events.of_users(np.array([7, 3]))
    assert some.users.tolist() == [user for user, _ in pairs if user in (3, 7)]


def test_blocks_cut_no_user_in_two(folder: Path, on_disk: None) -> None:
    events = load_dataset(requests(), folder).events
    blocks = list(events.blocks())
    assert len(blocks) > 5
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(EVENTS))
    for before, after in itertools.pairwise(blocks):
        assert events.users[before.stop - 1] != events.users[after.start]


@pytest.mark.parametrize("novel", [False, True])
def test_batches_and_schemas_are_those_from_memory(folder: Path, request: pytest.FixtureRequest, novel: bool) -> None:
    of = requests()
    of = dataclasses.replace(of, training=dataclasses.replace(of.training, novel_targets=novel))
    found, schemas = [], []
    for dataset in in_memory_and(folder, of, request):
        schemas.append(learn_schemas(of, dataset, dataset.events))
        examples = Examples(of, dataset, schemas[-1], dataset.events, context=5, targets=5)
        found.append((examples.count, list(examples.epoch(3))))
    for name in ("query", "item"):
        one, other = (getattr(each, name).to_json() for each in schemas)
        # The mean of a numeric feature is summed in another order.
        assert _rounded(one) == _rounded(other)
        assert getattr(schemas[0], name).vocabularies == getattr(schemas[1], name).vocabularies
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_array_equal(one["items"], other["items"])
        np.testing.assert_array_equal(one["position"], other["position"])
        for name, values in one["others"].items():
            np.testing.assert_allclose(values, other["others"][name], rtol=1e-5)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {key: _rounded(single) for key, single in value.items()}
    return [_rounded(single) for single in value] if isinstance(value, list) else value


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffling, "BUFFER_EVENTS", 400)
    monkeypatch.setattr(shuffling, "SHARD_EVENTS", 40)


def shuffled(seed: int) -> list[int]:
    """Returns the order of 1,000 sequences of 4 events in a shuffled epoch of 250 batches."""
    first, counts = np.arange(1000) * 4, np.full(1000, 2)
    found = shuffling.batches(first, counts * 2, counts, 250, np.random.default_rng(seed))
    return [sequence for batch in found for sequence in batch.tolist()]


def test_every_sequence_comes_once_an_epoch_from_few_shards_at_a_time(small_shards: None) -> None:
    order = shuffled(1)
    assert sorted(order) == list(range(1000))
    shards = np.array(order).reshape(10, 100) // 10
    # Those of a group of 10 shards, and of the next one where a batch straddles both; of 100 shards, 100 sequences
    # drawn from all would meet 100 (1 - 0.99 ** 100) = 63.
    assert all(10 <= len(set(mixed)) <= 20 for mixed in shards.tolist())
    # Neither are the shards of a group neighbours, nor the sequences of a shard.
    assert all(np.ptp(mixed) > 10 for mixed in shards)
    assert all(len(set(mixed[:20])) > 2 for mixed in shards.tolist())
    assert shuffled(1) == order
    assert shuffled(2) != order


def test_few_events_are_shuffled_as_a_whole() -> None:
    first, counts = np.arange(50), np.ones(50, dtype=np.int64)
    found = [b.tolist() for b in shuffling.batches(first, None, counts, 50, np.random.default_rng(5))]
    expected = np.random.default_rng(5)
    order = expected.permutation(50)
    assert found == [[order[at]] for at in expected.permutation(50)]


def test_a_resumed_training_from_disk_ends_bit_identical(
    folder: Path, tmp_path: Path, on_disk: None, small_shards: None
) -> None:
    class Stop(SilentTraining):
        def epoch(self, measured: Mapping[str, Any]) -> None:
            if measured["epoch"] == 1:
                raise KeyboardInterrupt

    of = requests()
    dataset = load_dataset(of, folder)
    train = splits.split(dataset, of.split).train
    schemas = learn_schemas(of, dataset, train)

    def weights(**arguments: Any) -> list[np.ndarray]:
        fitted = fit(of, dataset, schemas, train, validate=None, **arguments)
        return [np.array(weight) for tower in fitted.towers for weight in tower.weights]

    whole = weights()
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        weights(folder=tmp_path / "run", progress=Stop())
    for one, other in zip(whole, weights(folder=tmp_path / "run", resume=True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_bad_cell_in_a_later_block_is_named_by_its_row(folder: Path, on_disk: None) -> None:
    table = pl.read_parquet(folder / "purchases.parquet")
    buyers = [None if row == 411 else buyer for row, buyer in enumerate(table["buyer"])]
    table.with_columns(pl.Series("buyer", buyers)).write_parquet(folder / "purchases.parquet", row_group_size=130)
    with pytest.raises(DataError, match=r"column 'buyer': row 412: an empty cell"):  # rows count from 1
        load_dataset(requests(), folder)


def test_a_disk_without_room_is_an_error_that_names_the_folder(monkeypatch: pytest.MonkeyPatch, on_disk: None) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill.os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for 800 bytes .*No space left on device.*set TMPDIR"):
        spill.empty((100,), np.int64)
