"""`tune`: the trials of a search, interruption and resumption, and the resulting recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, command, recipe, write_shop
from trainer.cli.rich_progress import TrialBars
from trainer.data import splits
from trainer.data.dataset import load_dataset
from trainer.data.splits import Data
from trainer.errors import RecipeError, RunError, TrainingError
from trainer.evaluation.evaluate import evaluate_validation
from trainer.features.schemas import learn_schemas
from trainer.model.trained_model import TrainedModel
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.training.fit import fit
from trainer.tuning import recipe_search
from trainer.tuning.recipe_search import Search, SilentSearch, Tried
from trainer.tuning.search_space import SearchSpace
from trainer.tuning.studies import digest_data, open_study

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

SIZES = {"item_count": 40, "event_count": 600, "longest": 12}
"""Of the shop: 60 users with 12 purchases, of which two each are held out."""

FEW = ("encoder", "items", "loss", "dimension", "hidden_units")
"""Fixed to keep the trials of tests fast."""


def space_of(of: Recipe, *fixed: str) -> SearchSpace:
    return SearchSpace.of(of, **SIZES, fixed=fixed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


@pytest.fixture(scope="module")
def shop(folder: Path) -> Data:
    """The shop without a test part, so that reading the test part fails."""
    dataset = load_dataset(recipe(), folder)
    return Data(dataset, dataclasses.replace(splits.split(dataset, recipe().split), test=None))


OF = recipe(training={"epochs": 1})


@contextmanager
def searching(path: Path, shop: Data, of: Recipe = OF, **changes: Any) -> Iterator[Search]:
    space = space_of(of, *changes.get("fixed", FEW))
    with open_study(path, space, changes.get("sha256", "of the data")) as study:
        yield Search(study, space, shop, seed=3)


class Notes(SilentSearch):
    """Stores the finished trials, and interrupts the search at the first step of trial `interrupt`, as Ctrl-C does."""

    def __init__(self, interrupt: int | None = None) -> None:
        self.all: list[Tried] = []
        self.interrupt, self.number = interrupt, -1

    def trial(self, number: int, finished: int, total: int) -> None:
        self.number = number

    def step(self, loss: float) -> None:
        if self.number == self.interrupt:
            raise KeyboardInterrupt

    def tried(self, tried: Tried, best: Tried | None) -> None:
        self.all.append(tried)

    @property
    def values(self) -> list[tuple[float | None, Mapping[str, Any]]]:
        return [(tried.value, tried.recipe) for tried in self.all]


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path, shop: Data) -> None:
    whole = Notes()
    with searching(tmp_path / "whole.db", shop) as search:
        assert search.run(3, watch=whole)
    first, second = Notes(interrupt=1), Notes()
    with searching(tmp_path / "stopped.db", shop) as search, pytest.raises(KeyboardInterrupt):
        search.run(3, watch=first)
    with searching(tmp_path / "stopped.db", shop) as search:
        assert search.finished == 1
        assert search.run(3, watch=second)
    assert first.values + second.values == whole.values
    # The interrupted one, which had number 1, is done again under the next number.
    assert [tried.number for tried in second.all] == [2, 3]
    assert len({str(settings) for _, settings in whole.values}) == 3


def test_the_first_trial_is_the_recipe_as_it_is(tmp_path: Path, shop: Data) -> None:
    notes = Notes()
    with searching(tmp_path / "tune.db", shop) as search:
        search.run(1, watch=notes)
        assert search.run(1, watch=notes)  # what is finished already counts
    dataset, parts = shop
    schemas = learn_schemas(OF, dataset, parts.train)
    alone = fit(
        OF,
        dataset,
        schemas,
        parts.train,
        validate=lambda towers: evaluate_validation(TrainedModel(OF, schemas, towers), shop),
    )
    assert [(t.value, t.recipe) for t in notes.all] == [(alone.epochs[-1]["val_ndcg@10"], OF.to_json())]


def test_a_trial_that_ran_when_the_search_was_killed_is_done_again(tmp_path: Path, shop: Data) -> None:
    path, space = tmp_path / "tune.db", space_of(OF, *FEW)
    with open_study(path, space, "of the data") as study:
        for _ in range(2):
            killed = space.choose(study.ask())
    assert killed != OF
    with open_study(path, space, "of the data") as study:
        states = [trial.state.name for trial in study.trials]
        assert states == ["FAIL", "FAIL", "WAITING", "WAITING"]
        assert [space.choose(study.ask()) for _ in range(2)] == [OF, killed]


def test_a_trial_below_the_median_is_given_up(tmp_path: Path, shop: Data) -> None:
    notes, of = Notes(), recipe(training={"epochs": 3})
    with searching(tmp_path / "tune.db", shop, of) as search:
        # Five earlier trials had 1.0 after each epoch, which nothing reaches.
        for _ in range(5):
            done = optuna.trial.create_trial(
                value=1.0,
                params={"training.temperature": 0.1},
                distributions={"training.temperature": optuna.distributions.FloatDistribution(0.02, 0.5, log=True)},
                intermediate_values={1: 1.0, 2: 1.0, 3: 1.0},
                user_attrs={"recipe": of.to_json()},
            )
            search._study.add_trial(done)
        search.run(6, watch=notes)
        assert (search.finished, search.pruned) == (6, 1)
        assert {tried.number for tried in search.best(9)} == {1, 2, 3, 4, 5}
    assert [(t.value, t.epochs, t.why) for t in notes.all] == [(None, 1, "below the median after epoch 1")]


def test_the_key_that_decides_is_named_first(tmp_path: Path, shop: Data) -> None:
    number = optuna.distributions.FloatDistribution(0.0, 1.0)
    with searching(tmp_path / "tune.db", shop) as search:
        for at in range(20):
            # The value is that of one key; the other goes through the same numbers in another order.
            params = {"decides": at / 20, "does not": at * 7 % 20 / 20}
            search._study.add_trial(
                optuna.trial.create_trial(value=at / 20, params=params, distributions=dict.fromkeys(params, number))
            )
            assert (search.importance() == {}) == (at < 9)
        shares = search.importance()
    assert next(iter(shares)) == "decides"
    assert shares["decides"] > 0.8


def test_a_trial_that_leads_nowhere_does_not_end_the_search(
    tmp_path: Path, shop: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: Any, **__: Any) -> Any:
        raise TrainingError("the loss is not finite; and so on")

    notes = Notes()
    with searching(tmp_path / "tune.db", shop) as search:
        with monkeypatch.context() as patched:
            patched.setattr(recipe_search, "fit", fit)
            search.run(1, watch=notes)
        assert search.best(1) == []
        assert search.run(2, watch=notes)
        assert len(search.best(2)) == 1
    assert [t.why for t in notes.all] == ["the loss is not finite; and so on", ""]


def test_a_search_whose_time_is_over_can_go_on(tmp_path: Path, shop: Data) -> None:
    with searching(tmp_path / "tune.db", shop) as search:
        assert not search.run(1, max_seconds=0.0)
        assert not search.run(1, max_seconds=0.001)
        assert search.finished == 0
        assert search.run(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of": recipe(training={"epochs": 2})}, r"training\.epochs was 1 and is 2"),
        (
            {"of": recipe(training={"epochs": 1}, query_tower={"hidden_units": [16, 8]})},
            r"query_tower\.hidden_units was \[16\] and is \[16, 8\]",
        ),
        ({"sha256": "of other data"}, "the data has changed"),
        ({"fixed": (*FEW, "temperature")}, r"keys that are searched over.*\['training\.temperature'\]"),
    ],
    ids=["recipe", "list", "data", "fixed"],
)
def test_a_study_of_something_else_is_refused(tmp_path: Path, shop: Data, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "tune.db"
    with searching(path, shop):
        pass
    refused = pytest.raises(RecipeError, match=rf"study 'shop' in .*tune\.db cannot be resumed: .*{said}.*--study")
    with refused, searching(path, shop, **change):
        pass
    with searching(path, shop):  # the refusal has changed nothing
        pass


def test_a_file_that_is_no_study_is_refused_and_kept(tmp_path: Path, shop: Data) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database, but a text that is long enough to be taken for one\n" * 20)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"notes\.txt is not a study.*--study"), searching(path, shop):
        pass
    assert path.read_bytes() == before
    with pytest.raises(RunError, match="cannot write the lock file"), searching(tmp_path / "no" / "a.db", shop):
        pass


def test_two_searches_in_one_file_at_a_time_are_refused(tmp_path: Path, shop: Data) -> None:
    refused = pytest.raises(RunError, match="another process searches in")
    with searching(tmp_path / "tune.db", shop), refused, searching(tmp_path / "tune.db", shop):
        pass


def test_a_changed_cell_changes_the_digest_of_the_data(tmp_path: Path) -> None:
    write_shop(tmp_path / "one")
    write_shop(tmp_path / "two")
    one, two = (digest_data(recipe(), tmp_path / name) for name in ("one", "two"))
    assert one == two
    buyers = tmp_path / "two" / "buyers.csv"
    buyers.write_text(buyers.read_text().replace("u03,23,m", "u03,24,m"))
    assert digest_data(recipe(), tmp_path / "two") != one


def tune(folder: Path, out: Path, *words: Any) -> dict[str, Any]:
    fixed = [word for name in FEW for word in ("--fix", name)]
    study = ("--study", out.with_suffix(".db"), "--out", out)
    return json.loads(command("tune", folder / "shop.toml", *study, "--epochs", 1, *fixed, "--json", *words))


def test_the_written_recipe_is_the_best_and_trains(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.toml"
    printed = tune(folder, out, "--trials", 2, "--metric", "mrr")
    assert (printed["finished"], printed["metric"]) == (2, "mrr")
    best, other = printed["best"]
    assert best["mrr"] >= other["mrr"]
    written = loading.load(str(out))
    assert written.training.learning_rate == best["settings"]["training.learning_rate"]
    assert (written.training.metric, written.training.epochs) == ("mrr", 1)

    command("train", out, "--data", folder, "--run", tmp_path / "run", "--json")
    epoch = json.loads((tmp_path / "run" / "history.json").read_text())[-1]
    assert epoch["val_mrr"] == best["mrr"]

    # The search may replace what it wrote itself, but nothing that a person changed.
    assert tune(folder, out, "--trials", 2, "--metric", "mrr")["best"] == printed["best"]
    out.write_text(out.read_text() + "# mine\n")
    with pytest.raises(RecipeError, match=r"tuned\.toml exists and is kept; name another .* --out, or .*--force"):
        tune(folder, out, "--trials", 2, "--metric", "mrr")
    assert out.read_text().endswith("# mine\n")
    tune(folder, out, "--trials", 2, "--metric", "mrr", "--force")
    assert loading.load(str(out)) == written


def test_ctrl_c_leaves_the_best_so_far(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = TrialBars.trial

    def interrupt(self: TrialBars, number: int, finished: int, total: int) -> None:
        shown(self, number, finished, total)
        if number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrialBars, "trial", interrupt)
    with pytest.raises(KeyboardInterrupt):  # with which `python -m trainer` ends with code 130
        tune(folder, tmp_path / "tuned.toml")
    served_words = {"attributes": ["title"], "serve": True}  # as the recipe of the shop's folder has it
    assert loading.load(str(tmp_path / "tuned.toml")) == recipe(training={"epochs": 1}, search=served_words)


@pytest.mark.parametrize(("option", "allowed"), [("--trials", "at least 1"), ("--minutes", "above 0")])
def test_numbers_that_make_no_sense_are_refused(folder: Path, tmp_path: Path, option: str, allowed: str) -> None:
    with pytest.raises(RunError, match=f"{option} is 0, expected {allowed}"):
        tune(folder, tmp_path / "tuned.toml", option, 0)


def test_a_search_without_a_finished_trial_writes_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of 0 trials is complete.*--minutes"):
        tune(folder, tmp_path / "tuned.toml", "--minutes", 1e-6)
    assert not (tmp_path / "tuned.toml").exists()
