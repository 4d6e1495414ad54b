"""The command line of the trainer: the commands that train, evaluate and publish, and all others registered."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from retrieval.bundle.layout import REPORT
from retrieval.version import version
from trainer.cli import console
from trainer.cli.data_commands import init
from trainer.cli.data_options import DEFAULT, DataOptions
from trainer.cli.embed_command import embed_items
from trainer.cli.graded_search_commands import evaluate_graded
from trainer.cli.index_commands import tune_index
from trainer.cli.load_features_command import load_features
from trainer.cli.quality_command import quality
from trainer.cli.recommend_command import recommend
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import (
    Json,
    Store,
    add_items,
    bundles,
    open_store,
    print_comparison,
    print_json,
    prune,
    report_published,
    rollback,
)
from trainer.cli.store_commands import promote as promote_bundle
from trainer.cli.training_workers import compute_for_chief, dismiss_workers, join_workers
from trainer.cli.tune_command import tune
from trainer.data import sources
from trainer.errors import RunError
from trainer.quiet_tensorflow import import_tensorflow
from trainer.recipe import loading
from trainer.recipe.recipe import Recipe
from trainer.training.run_folder import claimed

app = App(
    help="""Trains two towers on interactions and publishes them as bundles that two services serve.

    Start with `python -m trainer train movielens_100k --store store --promote`; the README shows the rest.""",
    version=version,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `trainer.__main__` ends the process
)


@app.command
def train(
    recipe_name: str,
    /,
    *,
    tables: DataOptions = DEFAULT,
    run: Path | None = None,
    store: str | None = None,
    promote: bool = False,
    force: bool = False,
    epochs: int | None = None,
    seed: int | None = None,
    split: Literal["leave_last_one_out", "global_temporal", "random", "column"] | None = None,
    refit: Annotated[bool | None, Parameter(negative="--no-refit")] = None,
    baselines: Annotated[bool | None, Parameter(negative="--no-baselines")] = None,
    resume: bool = False,
    worker_wait_s: float = 600.0,
    as_json: Json = False,
) -> None:
    """Train the towers of a recipe, evaluate them, and publish them if a store is named.

    Example: `python -m trainer train movielens_100k --store store --promote`

    Times of interactions are seconds since 1970, or dates such as 2026-11-24 or 2026-11-24T03:16:45, in UTC unless they
    name a time zone. docs/recipes.md lists all keys of a recipe, and how cells are read.

    Several processes train together if TF_CONFIG names them: see "Training over several workers" in docs/deploying.md.

    Args:
        recipe_name: A shipped recipe (movielens_100k, complete_journey, complete_journey_repeats, amazon_beauty,
            product_search), or the path of a TOML file.
        tables: Where the tables of the recipe are.
        run: Folder to write towers, logs and evaluation to; it must not hold a finished run. Default:
            runs/RECIPE-TIME.
        store: Store to publish the model to: a folder, or a URL such as s3://bucket/prefix. Default: none is
            published.
        promote: Make the published bundle live, unless it fails a publish gate.
        force: With --promote, make the bundle live although it fails gates; its manifest records the failed gates.
        epochs: Largest number of epochs. Default: training.epochs of the recipe.
        seed: Random seed of the training. Default: seed of the recipe.
        split: Kind of split into training, validation and test. Default: split.kind of the recipe.
        refit: Train again on training and validation together, for the best number of epochs. Default: training.refit
            of the recipe.
        baselines: Compare with ItemKNN, EASE, iALS and others too, as `evaluate --baselines`. Default: if there are at
            most 3,000 items and 1,000,000 interactions.
        resume: Continue a stopped training from the checkpoint in the folder of --run; the weights become the same as
            without the stop.
        worker_wait_s: Longest time in seconds to wait for the other workers of TF_CONFIG to begin.
        as_json: Print the result as JSON on stdout.
    """
    if resume and run is None:
        raise RunError("--resume needs --run, the folder of the run to resume")
    if store is None and (promote or force):
        raise RunError("--promote and --force need --store, the store to publish to")
    chosen, progress = _override(tables.load(recipe_name), epochs, seed, split, refit), RichProgress()
    workers = join_workers(worker_wait_s, progress)
    folder = tables.folder(chosen, recipe_name, progress)
    if workers is not None and not workers.is_chief:
        compute_for_chief(workers, chosen, folder)
        return
    if store is not None:
        open_store(store).live()  # fails before the training, not after it, if this cannot be a store
    name = f"{chosen.name}-{datetime.now():%Y%m%dT%H%M%S}"
    with claimed(run, name, resume=resume) as run_folder:  # fails before large tables are read
        data = sources.read(chosen, folder)
        console.print_data(chosen, data)

        import_tensorflow()
        from trainer.evaluation.baseline_advice import advise
        from trainer.evaluation.baselines import fit_wanted
        from trainer.evaluation.evaluate import evaluate_test
        from trainer.evaluation.held_out_check import check_held_out
        from trainer.publishing.publish import publish as publish_run
        from trainer.training.fit_and_refit import fit_and_choose
        from trainer.training.saved_run import write_evaluation

        check_held_out(chosen, data)
        finished = fit_and_choose(chosen, folder, data, run_folder, resume=resume, progress=progress, workers=workers)
        finished.save(run_folder)
        others = fit_wanted(chosen, data, chosen.split.repeats, progress, wanted=baselines)
        evaluation = evaluate_test(finished.model, data, refitted=finished.refitted, others=others)
        write_evaluation(run_folder, evaluation)
    if finished.before_refit is not None:
        before = evaluate_test(finished.before_refit, data)
        console.print_evaluation(before, _title(chosen))
    console.print_evaluation(evaluation, _title(chosen))
    for sentence in advise(evaluation, chosen):
        progress.note(sentence)
    console.console.print(f"run: {run_folder}   curves: tensorboard --logdir {run_folder / 'tensorboard'}")
    result: dict[str, Any] = {"run": str(run_folder), **dataclasses.asdict(evaluation)}
    if store is not None:
        opened = open_store(store)
        manifest = publish_run(opened, finished, data, evaluation, progress)
        print_json({**result, "bundle_version": manifest.bundle_version}, as_json)
        print_comparison(opened, manifest.bundle_version)
        console.console.print(f"report: {opened.path(manifest.bundle_version) / REPORT}")
        report_published(opened, manifest, promote=promote, force=force)
    else:
        print_json(result, as_json)
    dismiss_workers(workers, progress)


@app.command
def evaluate(
    run: Path | None = None,
    /,
    *,
    qrels: Path | None = None,
    queries: Path | None = None,
    relevant_from: int | None = None,
    baselines: Annotated[bool | None, Parameter(negative="--no-baselines")] = None,
    repeats: Annotated[bool | None, Parameter(negative="--no-repeats")] = None,
    slice_by: Annotated[tuple[str, ...], Parameter(name="--slice")] = (),
    store: str | None = None,
    bundle: str | None = None,
    as_json: Json = False,
) -> None:
    """Evaluate a finished run on its test part, optionally with baselines, with slices, and as the services answer.

    Example: `python -m trainer evaluate runs/mine --baselines --slice gender`

    With graded queries instead: `python -m trainer evaluate runs/mine --qrels FILE`

    Args:
        run: Folder that `train` wrote. Default, only with --qrels: the newest finished run in the folder runs.
        qrels: CSV of graded queries, with the columns query, docid and rating. Evaluates on them instead of the test
            part, and compares the towers with BM25, the fusion of both, and the frozen text encoder.
        queries: CSV whose column query lists the graded queries to evaluate; needs --qrels. Default: all of them.
        relevant_from: Lowest rating of a relevant item; needs --qrels. Default: 1.
        baselines: Compare with popularity, recent popularity, ItemKNN, EASE (also with a query weighted by recency) and
            iALS, with settings chosen on validation. Default: as `train`, if there are at most 3,000 items and
            1,000,000 interactions.
        repeats: Rank known items too, and count repeat events as relevant. Default: split.repeats of the recipe.
        slice_by: Attribute of the users by which to group them, with metrics of each group; may be given several times.
        store: Store with a bundle of this run; its exported tower and index are evaluated too.
        bundle: Version of the bundle in --store to evaluate. Default: the newest bundle of this run.
        as_json: Print the result as JSON on stdout.
    """
    if qrels is not None:
        lowest = 1 if relevant_from is None else relevant_from
        print_json(evaluate_graded(run, qrels, queries, lowest, console.results(as_json)), as_json)
        return
    if run is None or queries is not None or relevant_from is not None:
        missing = "RUN, the folder that `train` wrote" if run is None else "--qrels, the file of graded queries"
        raise RunError(f"evaluate needs {missing}")
    import_tensorflow()
    from trainer.evaluation.baselines import fit_wanted
    from trainer.evaluation.deployed_scorer import deployed_scorer
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.evaluation.slices import check_columns
    from trainer.training.saved_run import Run, write_evaluation

    progress = RichProgress()
    finished = Run.load(run, progress)
    recipe = finished.model.recipe
    data = sources.read(recipe, finished.data_folder)
    console.print_data(recipe, data)
    check_columns(data.dataset, slice_by)
    counted = recipe.split.repeats if repeats is None else repeats
    others = fit_wanted(recipe, data, counted, progress, wanted=baselines)
    if store is not None:
        served = deployed_scorer(open_store(store), bundle, finished.model_version, recipe, data)
        others = {"two-tower, served": served, **others}
    evaluation = evaluate_test(
        finished.model,
        data,
        refitted=finished.refitted,
        repeats=counted,
        others=others,
        columns=slice_by,
    )
    write_evaluation(run, evaluation)
    console.print_evaluation(evaluation, _title(recipe), console.results(as_json))
    console.print_details(evaluation, console.results(as_json))
    print_json(dataclasses.asdict(evaluation), as_json)


@app.command
def publish(run: Path, /, *, store: Store, promote: bool = False, force: bool = False, as_json: Json = False) -> None:
    """Publish a finished run as a bundle.

    Args:
        run: Folder that `train` wrote.
        store: Store to publish to: a folder, which is made if it is missing, or a URL such as s3://bucket/prefix.
        promote: Make the bundle live, unless it fails a publish gate.
        force: With --promote, make the bundle live although it fails gates; its manifest records the failed gates.
        as_json: Print the result as JSON on stdout.
    """
    import_tensorflow()
    from trainer.evaluation.baselines import fit_wanted
    from trainer.evaluation.evaluate import evaluate_test
    from trainer.publishing.publish import publish as publish_run
    from trainer.training.saved_run import Run

    progress = RichProgress()
    finished = Run.load(run, progress)
    recipe = finished.model.recipe
    data = sources.read(recipe, finished.data_folder)
    console.print_data(recipe, data)
    others = fit_wanted(recipe, data, recipe.split.repeats, progress, wanted=False)
    evaluation = evaluate_test(finished.model, data, refitted=finished.refitted, others=others)
    opened = open_store(store)
    manifest = publish_run(opened, finished, data, evaluation, progress)
    print_json({"bundle_version": manifest.bundle_version, **dataclasses.asdict(evaluation)}, as_json)
    print_comparison(opened, manifest.bundle_version)
    report_published(opened, manifest, promote=promote, force=force)


for command in (
    init,
    tune,
    quality,
    tune_index,
    recommend,
    load_features,
    bundles,
    promote_bundle,
    rollback,
    add_items,
    embed_items,
    prune,
):
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
