"""The subcommands of ``python -m trainer``."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from retrieval.bundle.layout import REPORT
from retrieval.store.store import BundleStore
from trainer.cli import console
from trainer.cli.data_commands import init
from trainer.cli.index_commands import tune_index
from trainer.cli.rich_progress import RichProgress
from trainer.cli.search_commands import evaluate_graded
from trainer.cli.store_commands import (
    Json,
    Store,
    add_items,
    bundles,
    print_comparison,
    print_json,
    prune,
    report_published,
    rollback,
)
from trainer.cli.store_commands import promote as promote_bundle
from trainer.cli.tune_command import tune
from trainer.data import sources
from trainer.errors import RunError
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.training.run_folder import check_run_folder

app = App(
    help="""Learns two towers from interactions and publishes them as bundles that two services serve.

    Start with `python -m trainer train movielens_100k --store store --promote`; the README shows the rest.""",
    version=lambda: metadata.version("two-tower-retrieval"),
    default_parameter=Parameter(negative=()),
)


@app.command
def train(
    recipe_name: str,
    /,
    *,
    data_folder: Annotated[Path | None, Parameter(name="--data")] = None,
    run: Path | None = None,
    store: Path | None = None,
    promote: bool = False,
    force: bool = False,
    epochs: int | None = None,
    seed: int | None = None,
    split: Literal["leave_last_one_out", "global_temporal", "random", "column"] | None = None,
    refit: Annotated[bool | None, Parameter(negative="--no-refit")] = None,
    resume: bool = False,
    cache: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train the towers of a recipe, evaluate them, and publish them where a store is named.

    Example: `python -m trainer train movielens_100k --store store --promote`

    Times of interactions are seconds since 1970 (no milliseconds), or dates such as 2026-11-24 or
    2026-11-24T03:16:45, in UTC unless they say otherwise, the same way in every row; docs/recipes.md has all keys.

    Args:
        recipe_name: A shipped recipe (movielens_100k, complete_journey, complete_journey_repeats, amazon_beauty,
            product_search), or the path of a TOML file.
        data_folder: Folder that the recipe's tables are in. Default: its download, or the folder of the TOML file.
        run: Folder for the towers, logs and evaluation; holds no finished run, but to --resume. Default:
            runs/RECIPE-TIME.
        store: Publish a bundle to this store.
        promote: Make that bundle live, unless it fails a publish gate.
        force: Promote it past gates that it fails; its manifest records which.
        epochs: Instead of the recipe's.
        seed: Instead of the recipe's.
        split: Instead of the recipe's.
        refit: Fit again on training and validation, for as many epochs as were best, instead of the recipe's choice.
        resume: Go on from the checkpoint in the folder that --run names; ends with the same weights as without a stop.
        cache: Folder for downloads. Default: $XDG_CACHE_HOME/two-tower.
        as_json: Print the result as JSON on stdout.
    """
    if resume and run is None:
        raise RunError("--resume needs --run, the folder of the run to go on with")
    if store is None and (promote or force):
        raise RunError("--promote and --force need --store, the folder of bundles to publish to")
    chosen, progress = _override(loading.load(recipe_name), epochs, seed, split, refit), RichProgress()
    folder = sources.data_folder(chosen, recipe_name, data_folder, cache, progress=progress)
    if store is not None:
        BundleStore(store).live()  # says now, not after the training, where this can be no store
    run_folder = run or Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%dT%H%M%S}"
    check_run_folder(run_folder, resume=resume)  # likewise, before large tables are read
    data = sources.read(chosen, folder)
    console.print_data(chosen, data)

    import_tensorflow()
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.publishing.publish import publish as publish_run
    from trainer.training.run import write_evaluation
    from trainer.training.train import fit_and_choose

    finished = fit_and_choose(chosen, folder, data, run_folder, resume=resume, progress=progress)
    finished.save(run_folder)
    evaluation = evaluate_test(finished.model, data, refitted=finished.refitted)
    write_evaluation(run_folder, evaluation)
    if finished.before_refit is not None:
        before = evaluate_test(finished.before_refit, data)
        console.print_evaluation(before, _title(chosen))
    console.print_evaluation(evaluation, _title(chosen))
    console.console.print(f"run: {run_folder}   curves: tensorboard --logdir {run_folder / 'tensorboard'}")
    result: dict[str, Any] = {"run": str(run_folder), **dataclasses.asdict(evaluation)}
    if store is not None:
        opened = BundleStore(store)
        manifest = publish_run(opened, finished, data, evaluation, progress)
        print_json({**result, "bundle_version": manifest.bundle_version}, as_json)
        print_comparison(opened, manifest.bundle_version)
        console.console.print(f"report: {opened.path(manifest.bundle_version) / REPORT}")
        report_published(opened, manifest, promote=promote, force=force)
    else:
        print_json(result, as_json)


@app.command
def evaluate(
    run: Path | None = None,
    /,
    *,
    qrels: Path | None = None,
    queries: Path | None = None,
    relevant_from: int | None = None,
    baselines: bool = False,
    repeats: Annotated[bool | None, Parameter(negative="--no-repeats")] = None,
    slice_by: Annotated[tuple[str, ...], Parameter(name="--slice")] = (),
    store: Path | None = None,
    bundle: str | None = None,
    as_json: Json = False,
) -> None:
    """Evaluate a finished run on its test part: beside baselines, by slices, and as it is served.

    Example: `python -m trainer evaluate runs/mine --baselines --slice gender`

    With graded queries instead: `python -m trainer evaluate runs/mine --qrels FILE`

    Args:
        run: Folder that `train` wrote. Default, with graded queries: the newest one below runs.
        qrels: Graded queries, CSV with query, docid and rating: the towers beside BM25, the frozen encoder and both
            fused, instead of the test part.
        queries: CSV with a column query: those of the graded ones that count. Default: all.
        relevant_from: Lowest rating that counts as relevant. Default: 1.
        baselines: Beside popularity, recent popularity, ItemKNN, EASE (also with a query weighted by recency) and iALS,
            their settings chosen on validation.
        repeats: Rank known items too, and count purchases of them. Default: as the recipe says.
        slice_by: Attribute of the users to slice by; may be given several times.
        store: With a bundle of this run, evaluated too as the services answer: exported tower and index.
        bundle: Its version. Default: the newest bundle of this run in the store.
        as_json: Print the result as JSON on stdout.
    """
    if qrels is not None:
        print_json(evaluate_graded(run, qrels, queries, 1 if relevant_from is None else relevant_from), as_json)
        return
    if run is None or queries is not None or relevant_from is not None:
        missing = "RUN, the folder that `train` wrote" if run is None else "--qrels, the grades of the queries"
        raise RunError(f"evaluate needs {missing}")
    import_tensorflow()
    from trainer.evaluation.deployed_scorer import deployed_scorer
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.evaluation.slices import check_columns
    from trainer.training.run import Run, write_evaluation

    progress = RichProgress()
    finished = Run.load(run, progress)
    recipe = finished.model.recipe
    data = sources.read(recipe, finished.data_folder)
    console.print_data(recipe, data)
    check_columns(data.dataset, slice_by)
    counted = recipe.split.repeats if repeats is None else repeats
    others = {}
    if store is not None:
        others["two-tower, served"] = deployed_scorer(BundleStore(store), bundle, finished.model_version, recipe, data)
    if baselines:
        from trainer.evaluation.baselines import fit_all

        fitted, notes = fit_all(data, repeats=counted, progress=progress)
        others |= fitted
        for note in notes:
            progress.note(f"note: {note}")
    evaluation = evaluate_test(
        finished.model,
        data,
        refitted=finished.refitted,
        repeats=counted,
        others=others,
        columns=slice_by,
    )
    write_evaluation(run, evaluation)
    console.print_evaluation(evaluation, _title(recipe))
    console.print_details(evaluation)
    print_json(dataclasses.asdict(evaluation), as_json)


@app.command
def publish(run: Path, /, *, store: Store, promote: bool = False, force: bool = False, as_json: Json = False) -> None:
    """Publish a finished run as a bundle.

    Args:
        run: Folder that `train` wrote.
        store: Folder of bundles; made where it is missing.
        promote: Make the bundle live, unless it fails a publish gate.
        force: Promote it past gates that it fails; its manifest records which.
        as_json: Print the result as JSON on stdout.
    """
    import_tensorflow()
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.publishing.publish import publish as publish_run
    from trainer.training.run import Run

    progress = RichProgress()
    finished = Run.load(run, progress)
    recipe = finished.model.recipe
    data = sources.read(recipe, finished.data_folder)
    console.print_data(recipe, data)
    evaluation = evaluate_test(finished.model, data, refitted=finished.refitted)
    opened = BundleStore(store)
    manifest = publish_run(opened, finished, data, evaluation, progress)
    print_json({"bundle_version": manifest.bundle_version, **dataclasses.asdict(evaluation)}, as_json)
    print_comparison(opened, manifest.bundle_version)
    report_published(opened, manifest, promote=promote, force=force)


for command in (init, tune, tune_index, bundles, promote_bundle, rollback, add_items, prune):
    app.command(command)


def _title(recipe: Recipe) -> str:
    return f"{recipe.name}, {recipe.split.kind}, test part, full ranking"


def _override(chosen: Recipe, epochs: int | None, seed: int | None, split: str | None, refit: bool | None) -> Recipe:
    raw = chosen.to_json()
    changes = (
        ("training", "epochs", epochs),
        (None, "seed", seed),
        ("split", "kind", split),
        ("training", "refit", refit),
    )
    if split not in (None, "column"):
        raw["split"]["column"] = None
    for section, key, value in changes:
        if value is not None:
            (raw[section] if section else raw)[key] = value
    return loading.parse(raw, "the command line")
