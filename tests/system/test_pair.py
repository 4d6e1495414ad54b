"""Trained bundles, both services and the client together: answers are right before, during and after swaps."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.load import Load
from testbed.offline import OfflineBundle
from tests.harness import Running, ann_service, query_tower_service
from tests.trainer.world import KERAS_AND_NUMPY, Shop
from tests.worlds import wait_for
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.recipe import loading
from two_tower_client import Retriever

K = 4
"""Number of items to retrieve, a tenth of the catalogue. For more, the ANN service would scan and not use its index."""

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@dataclass(frozen=True)
class Asked:
    """A query of a user, with the expected answer.

    Attributes:
        features: Features of the query by name.
        known: Ids of the items that the user interacted with before.
        held_out: Id of the item that the user interacted with next, which was held out.
    """

    features: dict[str, Any]
    known: list[str]
    held_out: str


@pytest.fixture(scope="module")
def users(shop: Shop) -> list[Asked]:
    """Queries of all users of the shop at the time when the test part begins."""
    recipe = loading.load(str(shop.recipe))
    dataset = load_dataset(recipe, shop.recipe.parent)
    parts = splits.split(dataset, recipe.split)
    asked: list[Asked] = []
    for user in range(len(dataset.user_ids)):
        known = [dataset.items.ids[item] for item in parts.known.items[parts.known.users == user]]
        (held_out,) = (dataset.items.ids[item] for item in parts.test.items[parts.test.users == user])
        profile = {name: column[user] for name, column in dataset.user_columns.items()}
        asked.append(Asked({**profile, "history": known}, known, held_out))
    return asked


@pytest.fixture
def store(shop: Shop, tmp_path: Path) -> FolderStore:
    """A copy of the shop's store: two bundles, the first one live."""
    shutil.copytree(shop.store.root, tmp_path / "store")
    return FolderStore(tmp_path / "store")


@dataclass(frozen=True)
class Pair:
    """Both services and a client of them."""

    query_tower: Running
    ann: Running
    retriever: Retriever

    def wait_for(self, version: str) -> None:
        self.query_tower.wait_for_bundle(version)
        self.ann.wait_for_bundle(version)


@contextmanager
def serving(store: FolderStore, version: str) -> Iterator[Pair]:
    with query_tower_service(store) as query_tower, ann_service(store) as ann:
        addresses = f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}"
        with Retriever(*addresses, timeout_s=10.0) as retriever:
            pair = Pair(query_tower, ann, retriever)
            pair.wait_for(version)
            yield pair


def opened(store: FolderStore, users: list[Asked]) -> Callable[[str], OfflineBundle]:
    return functools.cache(lambda version: OfflineBundle(store, version, [user.features for user in users]))


def test_answers_are_those_of_the_bundle_and_as_good_as_evaluated(
    shop: Shop, store: FolderStore, users: list[Asked]
) -> None:
    first, _ = shop.versions
    offline = opened(store, users)(first)
    found = 0
    with serving(store, first) as pair:
        batch = pair.retriever.retrieve_batch([user.features for user in users], k=K)
        for number, (user, answer) in enumerate(zip(users, batch, strict=True)):
            assert answer.bundle_version == first
            assert offline.agrees(number, answer.item_ids, answer.scores)
            unknown = pair.retriever.retrieve(user.features, k=10, exclude=user.known, exact=True)
            assert not set(unknown.item_ids) & set(user.known)
            found += user.held_out in unknown.item_ids
        titled = pair.retriever.retrieve(users[0].features, k=1, return_attributes=["title", "genres"])
    assert found / 60 == pytest.approx(shop.results[0]["metrics"]["two-tower"]["recall@10"])
    item = int(titled.item_ids[0][1:])
    assert titled.attributes["title"] == (f"Title {item}, the film",)
    genres: Any = titled.attributes["genres"][0]
    assert genres[0] == ("comedy", "drama", "horror", "western")[item % 4]


def test_offline_tells_the_two_models_apart(shop: Shop, store: FolderStore, users: list[Asked]) -> None:
    first, second = shop.versions
    with serving(store, first) as pair:
        answers = pair.retriever.retrieve_batch([user.features for user in users], k=K)
    offline = opened(store, users)
    assert not any(offline(second).agrees(n, a.item_ids, a.scores) for n, a in enumerate(answers))


def test_nothing_fails_or_is_mixed_while_models_are_promoted_and_rolled_back(
    shop: Shop, store: FolderStore, users: list[Asked]
) -> None:
    first, second = shop.versions
    queries = [user.features for user in users]
    with serving(store, first) as pair, Load(pair.retriever, queries, opened(store, users), clients=2, k=K) as load:

        def answers_of(version: str) -> None:
            pair.wait_for(version)
            before = load.tally.bundles[version]
            wait_for(lambda: load.tally.bundles[version] >= before + 100, f"100 answers of {version}")

        answers_of(first)
        store.promote(second)
        answers_of(second)
        store.roll_back()
        answers_of(first)
    tally = load.tally
    assert (tally.failures, tally.mixed) == ({}, 0)
    assert tally.bundles.keys() == {first, second}
    assert tally.sent == tally.bundles.total() >= 300


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "name", "refused_by"),
    [
        (flip, "index.ann", ("ann",)),
        (flip, "query_tower.tflite", ("query_tower",)),
        (truncate, "vectors.npy", ("query_tower", "ann")),
        (Path.unlink, "items.npz", ("query_tower", "ann")),
        (Path.unlink, "manifest.json", ("query_tower", "ann")),
    ],
    ids=["bit-flipped index", "bit-flipped tower", "truncated", "half-copied", "without manifest"],
)
def test_a_damaged_bundle_never_replaces_the_running_one(
    shop: Shop,
    store: FolderStore,
    users: list[Asked],
    damage: Callable[[Path], None],
    name: str,
    refused_by: tuple[str, ...],
) -> None:
    first, second = shop.versions
    damage(store.path(second) / name)
    queries = [user.features for user in users]
    with serving(store, first) as pair, Load(pair.retriever, queries, opened(store, users), clients=1, k=K) as load:
        # Written directly, as a copy of a store would be: LIVE names the bundle without any verification.
        (store.root / "LIVE.new").write_text(f"{second}\n{first}\n")
        os.replace(store.root / "LIVE.new", store.root / "LIVE")
        for service in refused_by:
            problem = getattr(pair, service).wait_for_problem(second)
            assert name in problem.message
        sent = load.tally.sent
        wait_for(lambda: load.tally.sent >= sent + 50, "50 more answers")
    assert (load.tally.failures, load.tally.mixed) == ({}, 0)
    assert load.tally.bundles.keys() == {first}
