"""The command `quality`, which measures a recipe with several seeds beside all baselines."""

from __future__ import annotations

from trainer.cli.console import print_data, print_details, results
from trainer.cli.data_options import DEFAULT, DataOptions
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import Json, print_json
from trainer.cli.tables import Column, print_table
from trainer.data import sources
from trainer.errors import RunError
from trainer.quiet_tensorflow import import_tensorflow
from trainer.training.cluster import refuse_cluster


def quality(
    recipe_name: str,
    /,
    *,
    tables: DataOptions = DEFAULT,
    seeds: int = 3,
    refit_only: bool = False,
    as_json: Json = False,
) -> None:
    """Train a recipe with several seeds, and evaluate it on the test part beside all baselines. Nothing is kept.

    Look at the test part seldom: choose by `tune`, which uses validation alone, and measure what was chosen.

    Example: `python -m trainer quality shop/shop.toml`

    Args:
        recipe_name: A shipped recipe, or the path of a TOML file.
        tables: Where the tables of the recipe are.
        seeds: Number of trainings, with the seeds 1, 2, …
        refit_only: Train on training and validation at once, for all epochs of the recipe: half the time.
        as_json: Print all metrics of all seeds as JSON on stdout.
    """
    if seeds < 1:
        raise RunError(f"--seeds is {seeds}, expected at least 1")
    refuse_cluster("quality")
    chosen, progress = tables.load(recipe_name), RichProgress()
    if chosen.prepare is not None:
        raise RunError(f"{chosen.name} holds out no events; train it, then `evaluate --qrels FILE` judges it")
    folder = tables.folder(chosen, recipe_name, progress)
    data = sources.read(chosen, folder)
    print_data(chosen, data)

    import_tensorflow()
    from trainer.evaluation.baseline_advice import advise
    from trainer.evaluation.held_out_check import check_held_out
    from trainer.tuning.quality import cells_of, measure

    check_held_out(chosen, data)
    (protocol,), seconds = measure(chosen, folder, data, seeds, refit_only=refit_only, progress=progress)
    shown = cells_of(protocol.rows())
    columns = [Column(name.replace("@", "\n@"), cells) for name, cells in shown.items()]
    print_table(results(as_json), protocol.title(chosen), columns)
    print_details(protocol.found[0], results(as_json))
    for sentence in advise(protocol.found[0], chosen):
        progress.note(f"seed 1: {sentence}")
    print_json({**protocol.to_json(), "training_seconds": seconds}, as_json)
