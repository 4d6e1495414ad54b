"""The command `quality`, which measures a recipe with several seeds beside all baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from trainer.cli.console import console, print_data, print_details
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import Json, print_json
from trainer.data import sources
from trainer.errors import RunError
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading

_METRIC = "ndcg@10"


def quality(
    recipe_name: str,
    /,
    *,
    data_folder: Annotated[Path | None, Parameter(name="--data")] = None,
    interactions: Path | None = None,
    items: Path | None = None,
    users: Path | None = None,
    seeds: int = 3,
    refit_only: bool = False,
    cache: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train a recipe with several seeds, and evaluate it on the test part beside all baselines. Nothing is kept.

    Look at the test part seldom: choose by `tune`, which uses validation alone, and measure what was chosen.

    Example: `python -m trainer quality shop/shop.toml`

    Args:
        recipe_name: A shipped recipe, or the path of a TOML file.
        data_folder: Folder of the recipe's tables. Default: its download, or the folder of the TOML file.
        interactions: Table of events to read instead of the recipe's; it has the same columns.
        items: Table of items to read instead of the recipe's.
        users: Table of users to read instead of the recipe's.
        seeds: Number of trainings, with the seeds 1, 2, …
        refit_only: Train on training and validation at once, for all epochs of the recipe: half the time.
        cache: Folder for downloads. Default: $XDG_CACHE_HOME/two-tower.
        as_json: Print all metrics of all seeds as JSON on stdout.
    """
    if seeds < 1:
        raise RunError(f"--seeds is {seeds}, expected at least 1")
    chosen, progress = loading.with_tables(loading.load(recipe_name), interactions, items, users), RichProgress()
    if chosen.prepare is not None:
        raise RunError(f"{chosen.name} holds out no events; train it, then `evaluate --qrels FILE` judges it")
    folder = sources.data_folder(chosen, recipe_name, data_folder, cache, progress=progress)
    data = sources.read(chosen, folder)
    print_data(chosen, data)

    import_tensorflow()
    from trainer.evaluation.evaluate import MODEL, POPULARITY
    from trainer.evaluation.held_out_check import check_held_out
    from trainer.tuning.quality import measure, to_markdown

    check_held_out(chosen, data)
    (protocol,), seconds = measure(chosen, folder, data, seeds, refit_only=refit_only, progress=progress)
    rows = protocol.rows()
    console.print(f"{escape(protocol.title(chosen))}\n\n{escape(to_markdown(rows))}\n")
    print_details(protocol.found[0])
    own, _ = rows[MODEL][_METRIC]
    for method in protocol.found[0].metrics:
        if method not in (MODEL, POPULARITY) and rows[method][_METRIC][0] > own:
            console.print(f"{method} ranks better: {_METRIC} {rows[method][_METRIC][0]:.4f}, two-tower {own:.4f}")
    print_json({**protocol.to_json(), "training_seconds": seconds}, as_json)
