"""The command `tune`, which searches for a better recipe."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli.console import console, print_data, print_rows, results
from trainer.cli.data_options import DEFAULT, DataOptions
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import Json, print_json
from trainer.data import sources
from trainer.errors import RecipeError, RunError, TrainingError
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml_writer import to_toml
from trainer.recipe.training import Metric
from trainer.training.cluster import refuse_cluster

if TYPE_CHECKING:  # these import optuna and tensorflow, which other commands need not wait for
    from trainer.tuning.recipe_search import Search, Tried
    from trainer.tuning.search_space import SearchSpace

_TRIALS = 50
"""Number of finished trials of a search without a limit in minutes."""
_SHOWN = 5
"""Number of best trials, and of most important keys, to print."""


def tune(
    recipe_name: str,
    /,
    *,
    tables: DataOptions = DEFAULT,
    trials: int | None = None,
    study: Path = Path("tune.db"),
    out: Path = Path("tuned.toml"),
    force: bool = False,
    metric: Metric | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int = 1,
    fix: tuple[str, ...] = (),
    as_json: Json = False,
) -> None:
    """Search for a better recipe, and write the best one found to a file.

    Each trial trains the towers with other values of the recipe's keys, such as learning rate or dropout. Trials are
    judged on the validation part, never on the test part. The same command resumes a search that was stopped.

    Example: `python -m trainer tune movielens_100k --minutes 30`

    Args:
        recipe_name: Original recipe: a shipped recipe, or the path of a TOML file. It is the first trial; the other
            trials vary its keys.
        tables: Where the tables of the recipe are.
        trials: Total number of finished trials, including those of earlier runs of the command. Default: 50; with
            --minutes no limit.
        study: SQLite file that keeps the trials, from which a search is resumed.
        out: TOML file to write the recipe of the best trial to.
        force: Replace the file of --out although this search did not write it.
        metric: Validation metric to maximise. Default: training.metric of the recipe.
        epochs: Largest number of epochs of a trial. Default: training.epochs of the recipe.
        minutes: Time limit of the search in minutes. Default: no limit.
        seed: Random seed of the choice of trials.
        fix: Recipe key that keeps its value, such as dimension or history.encoder; may be given several times.
        as_json: Print the best trials and the importance of the keys as JSON on stdout.
    """
    if trials is None and minutes is None:
        trials = _TRIALS
    if trials is not None and trials < 1:
        raise RunError(f"--trials is {trials}, expected at least 1")
    if minutes is not None and not minutes > 0:
        raise RunError(f"--minutes is {minutes:g}, expected above 0")
    refuse_cluster("tune")
    chosen = _override(tables.load(recipe_name), metric, epochs)
    progress = RichProgress()
    folder = tables.folder(chosen, recipe_name, progress)
    data = sources.read(chosen, folder)
    print_data(chosen, data)

    import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that each trial builds new graphs
    from trainer.evaluation.held_out_check import check_held_out
    from trainer.tuning.recipe_search import Search
    from trainer.tuning.search_space import SearchSpace
    from trainer.tuning.studies import digest_data, open_study

    check_held_out(chosen, data)
    space = SearchSpace.of(
        chosen,
        item_count=len(data.dataset.items.ids),
        event_count=len(data.parts.train),
        longest=int(data.parts.train.user_counts.max()),
        fixed=fix,
    )
    with open_study(study, space, digest_data(chosen, folder)) as opened:
        search = Search(opened, space, data, seed, progress)
        if not force and not search.may_replace(out):
            raise RecipeError(f"{out} exists and is kept; name another file with --out, or replace it with --force")
        train = _train_command(chosen, out, folder, named=tables.data is not None)
        if search.finished:
            console.print(f"resuming {study}, where {search.finished} trials are finished")
        limit = math.inf if minutes is None else 60 * minutes
        try:
            with progress.trials(chosen.training.metric, space) as watch:
                is_complete = search.run(trials, max_seconds=limit, watch=watch)
        except KeyboardInterrupt:
            console.print("stopped; the same command resumes the search")
            if search.best(1):
                _report(search, space, out, study, train, as_json)
            raise
        if not is_complete:
            console.print(f"{minutes:g} minutes are over; the same command resumes the search")
        if not search.best(1):
            raise TrainingError(
                f"none of {search.finished} trials is complete, so no recipe is written; give it more time "
                "(--minutes), or run `train` on the recipe to see what goes wrong"
            )
        _report(search, space, out, study, train, as_json)


def _override(chosen: Recipe, metric: str | None, epochs: int | None) -> Recipe:
    raw = chosen.to_json()
    for key, value in (("metric", metric), ("epochs", epochs)):
        if value is not None:
            raw["training"][key] = value
    return loading.parse(raw, "the command line")


def _train_command(chosen: Recipe, out: Path, folder: Path, *, named: bool) -> str:
    """Returns the shell command that trains the written recipe.

    It names the data folder with --data if the paths in the written recipe would not be found otherwise.
    """
    words = ["python", "-m", "trainer", "train", str(out)]
    if named or (chosen.download is None and folder.resolve() != out.parent.resolve()):
        words += ["--data", str(folder)]
    return shlex.join(words)


def _report(search: Search, space: SearchSpace, out: Path, study: Path, train: str, as_json: bool) -> None:
    """Writes the recipe of the best trial to a file, and prints the best trials and the most important keys."""
    from trainer.tuning.recipe_search import recipe_of

    best, metric = search.best(_SHOWN), space.recipe.training.metric
    comment = (
        f"Written by `python -m trainer tune`: trial {best[0].number} of {search.finished} of {space.recipe.name}, "
        f"{metric} of the validation part {best[0].value:.4f}."
    )
    search.write(out, to_toml(recipe_of(best[0]), comment))
    importance = search.importance()
    title = f"the best trials; {search.finished} are finished, {search.pruned} of them pruned"
    print_rows(title, _rows(best, space), results(as_json))
    if importance:
        most = [f"{name} {share:.0%}" for name, share in list(importance.items())[:_SHOWN]]
        results(as_json).print(f"most important keys: {', '.join(most)}")
    if best[0].number == 0:
        console.print(f"no trial was better than the recipe itself, which {out} repeats")
    console.print(f"recipe: {out}   train it: {train}")
    print_json(
        {
            "study": str(study),
            "recipe": str(out),
            "metric": metric,
            "finished": search.finished,
            "pruned": search.pruned,
            "best": [
                {
                    "trial": tried.number,
                    metric: tried.value,
                    "epochs": tried.epochs,
                    "seconds": tried.seconds,
                    "settings": space.settings(tried.recipe),
                }
                for tried in best
            ],
            "importance": importance,
        },
        as_json,
    )


def _rows(best: Sequence[Tried], space: SearchSpace) -> list[dict[str, Any]]:
    """Returns the rows of a table of the best trials, by column name.

    The first rows hold metric, number of epochs and seconds of each trial; then each searched key has a row with its
    value in the original recipe and in each trial.
    """
    chosen = [space.settings(tried.recipe) for tried in best]
    own = space.settings(space.recipe.to_json())
    figures = {
        space.recipe.training.metric: [f"{tried.value:.4f}" for tried in best],
        "epochs": [tried.epochs for tried in best],
        "seconds": [f"{tried.seconds:.0f}" for tried in best],
    }
    rows = [{"": name, "recipe": "", **_columns(best, values)} for name, values in figures.items()]
    for name in [parameter.name for parameter in space.parameters]:
        values = [settings.get(name, "") for settings in chosen]
        rows.append({"": name, "recipe": own.get(name, ""), **_columns(best, values)})
    return rows


def _columns(best: Sequence[Tried], values: Sequence[Any]) -> dict[str, Any]:
    return {f"trial {tried.number}": value for tried, value in zip(best, values, strict=True)}
