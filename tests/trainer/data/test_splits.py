"""Splits into training, validation and test part, against the script that made the reference splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.reference import make_splits
from tests.trainer.world import dataset
from trainer.data import splits
from trainer.data.dataset import Dataset, load_dataset
from trainer.errors import DataError, RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import Split

PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in the form of MovieLens-100k: 603 ratings in 150 seconds, so that most share their time with another."""
    folder = tmp_path_factory.mktemp("ml-100k")
    generator = np.random.default_rng(11)
    cells = generator.permutation(25 * 60)[:600]  # distinct (user, item) pairs, in no order
    users, items = 1 + cells // 60, 1 + cells % 60
    ratings, times = generator.integers(1, 6, 600), 880_000_000 + generator.integers(0, 150, 600)
    rows = [*zip(users, items, ratings, times, strict=True), (26, 1, 3, 880_000_010), (27, 1, 3, 880_000_020)]
    rows.append((27, 2, 5, 880_000_020))  # users with one event and with two
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write(folder / "ml-100k.inter", header, rows)
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    write(folder / "ml-100k.item", header, [(i, f"Film {i}", 1900 + i, "Drama") for i in range(1, 61)])
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    write(folder / "ml-100k.user", header, [(u, 20 + u, "F", "other", "00000") for u in range(1, 28)])
    return folder


def write(path: Path, header: str, rows: list) -> None:
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture(scope="module")
def reference(movielens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    make_splits.movielens(str(movielens), str(folder))
    return folder


@pytest.fixture(scope="module")
def loaded(movielens: Path) -> Dataset:
    return load_dataset(loading.load("movielens_100k"), movielens)


@pytest.mark.parametrize(("kind", "name"), [("leave_last_one_out", "p2"), ("global_temporal", "p1")])
def test_equals_the_reference_split(loaded: Dataset, reference: Path, kind: str, name: str) -> None:
    parts = splits.split(loaded, Split(kind))
    for part in PARTS:
        lines = (reference / name / f"{part}.tsv").read_text().splitlines()[1:]
        expected = sorted((user, item, float(time)) for user, item, _, time in map(str.split, lines))
        events = getattr(parts, part)
        found = sorted(
            (loaded.user_ids[user], loaded.items.ids[item], time)
            for user, item, time in zip(events.users, events.items, events.times, strict=True)
        )
        assert found == expected, part
        assert found, part


@pytest.mark.parametrize("kind", ["leave_last_one_out", "global_temporal"])
def test_each_event_is_in_one_part(loaded: Dataset, kind: str) -> None:
    parts = splits.split(loaded, Split(kind))
    keys = [{tuple(pair) for pair in getattr(parts, part).pairs.tolist()} for part in PARTS]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 603


def test_known_is_training_then_validation_of_each_user() -> None:
    bought = [("a", f"i{n}", float(n)) for n in range(4)] + [("b", f"i{n}", 10.0 - n) for n in range(3)]
    parts = splits.split(dataset(bought), Split("leave_last_one_out"))
    # a buys 0, 1, 2, 3 in this order, b buys 2, 1, 0: the last of each is held out.
    assert parts.known.users.tolist() == [0, 0, 0, 1, 1]
    assert parts.known.items.tolist() == [0, 1, 2, 2, 1]
    assert parts.test.items.tolist() == [3, 0]


def test_an_empty_part_is_an_error() -> None:
    two_each = dataset([("a", "i0", 0.0), ("a", "i1", 1.0), ("b", "i0", 2.0), ("b", "i2", 3.0)])
    with pytest.raises(DataError, match=r"leave_last_one_out: the valid part is empty .*needs more data or another"):
        splits.split(two_each, Split("leave_last_one_out"))
    at_once = dataset([(f"u{n}", f"i{n}", 5.0) for n in range(30)])
    with pytest.raises(DataError, match="global_temporal: the train part is empty"):
        splits.split(at_once, Split("global_temporal"))


def test_random_takes_shares_of_all_events_and_the_same_ones_each_time() -> None:
    data_ = dataset([(f"u{n % 7}", f"i{n % 50}", float(n)) for n in range(1000)])
    parts = splits.split(data_, Split("random", valid_share=0.2, test_share=0.1))
    assert [len(getattr(parts, name)) for name in PARTS] == [700, 200, 100]
    again = splits.split(data_, Split("random", valid_share=0.2, test_share=0.1))
    np.testing.assert_array_equal(parts.test.times, again.test.times)
    assert 300 < parts.test.times.mean() < 700  # of 0 to 999: neither the first nor the last ones
    np.testing.assert_array_equal(np.sort(np.concatenate([getattr(parts, n).times for n in PARTS])), np.arange(1000.0))
    known = parts.known
    assert all(np.diff(known.times)[np.diff(known.users) == 0] > 0)  # histories stay in the order of time


@pytest.fixture
def own_parts(tmp_path: Path) -> Path:
    (tmp_path / "r.toml").write_text(
        'name = "r"\n[interactions]\npath = "e.csv"\nuser = "u"\nitem = "i"\n'
        '[split]\nkind = "column"\ncolumn = "part"\n'
        '[query_tower]\nfeatures = [{ name = "history", kind = "history" }]\n'
        '[item_tower]\nfeatures = [{ name = "item_id", kind = "categorical" }]\n'
    )
    return tmp_path


def test_a_column_says_which_part_an_event_is_of(own_parts: Path) -> None:
    (own_parts / "e.csv").write_text("u,i,part\na,x,test\na,y,train\nb,x,valid\nb,z,train\n")
    recipe = loading.load(str(own_parts / "r.toml"))
    data_ = load_dataset(recipe, own_parts)
    parts = splits.split(data_, recipe.split)
    found = {
        name: [(data_.user_ids[u], data_.items.ids[i]) for u, i in getattr(parts, name).pairs.tolist()]
        for name in PARTS
    }
    assert found == {"train": [("a", "y"), ("b", "z")], "valid": [("b", "x")], "test": [("a", "x")]}


def test_a_cell_that_names_no_part_is_refused(own_parts: Path) -> None:
    (own_parts / "e.csv").write_text("u,i,part\na,x,test\na,y,later\nb,x,valid\nb,z,train\n")
    with pytest.raises(DataError, match="column 'part': line 3: 'later' is not one of train, valid, test"):
        load_dataset(loading.load(str(own_parts / "r.toml")), own_parts)


def test_a_column_is_asked_for_where_it_decides(own_parts: Path) -> None:
    path = own_parts / "r.toml"
    path.write_text(path.read_text().replace('column = "part"\n', ""))
    with pytest.raises(RecipeError, match=r"split\.kind column needs split\.column"):
        loading.load(str(path))


def test_a_column_that_would_decide_nothing_is_refused(own_parts: Path) -> None:
    path = own_parts / "r.toml"
    path.write_text(path.read_text().replace('kind = "column"\n', 'kind = "random"\n'))
    with pytest.raises(RecipeError, match=r"split\.column 'part' makes no sense where split\.kind is random"):
        loading.load(str(path))


def test_the_column_stays_beside_its_event_where_ratings_leave_some_out(own_parts: Path) -> None:
    path = own_parts / "r.toml"
    path.write_text(path.read_text().replace('item = "i"\n', 'item = "i"\nrating = "stars"\nmin_rating = 3\n'))
    (own_parts / "e.csv").write_text("u,i,part,stars\na,w,train,1\na,x,test,5\nb,y,valid,4\na,z,train,3\n")
    recipe = loading.load(str(path))
    data_ = load_dataset(recipe, own_parts)
    parts = splits.split(data_, recipe.split)
    assert [[data_.items.ids[i] for i in getattr(parts, name).items] for name in PARTS] == [["z"], ["y"], ["x"]]
