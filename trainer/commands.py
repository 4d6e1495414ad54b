"""The subcommands of ``python -m trainer``."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from bundle.errors import BundleRefused
from bundle.manifest import Manifest
from bundle.store import BundleStore
from trainer import console, data, download, recipes, schema, splits
from trainer.quiet import import_tensorflow
from trainer.recipe import Recipe
from trainer.splits import Parts

app = App(
    name="trainer",
    help="""Learns two towers from interactions and publishes them as bundles that two services serve.

    Start with `python -m trainer train movielens_100k --store store --promote`; the README shows the rest.""",
    version="0.1.0",
    default_parameter=Parameter(negative=()),
)

Store = Annotated[Path, Parameter(name="--store")]
Json = Annotated[bool, Parameter(name="--json")]


@app.command
def train(
    recipe_name: str,
    /,
    *,
    data_folder: Annotated[Path | None, Parameter(name="--data")] = None,
    run: Path | None = None,
    store: Path | None = None,
    promote: bool = False,
    epochs: int | None = None,
    seed: int | None = None,
    split: Literal["leave_last_one_out", "global_temporal"] | None = None,
    cache: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train the towers of a recipe, evaluate them, and publish them where a store is named.

    Example: `python -m trainer train movielens_100k --store store --promote`

    Args:
        recipe_name: A shipped recipe (movielens_100k, complete_journey) or the path of a TOML file.
        data_folder: Folder that the recipe's tables are in. Default: its download, or the folder of the TOML file.
        run: Folder for the towers, logs and evaluation. Default: runs/RECIPE-TIME.
        store: Publish a bundle to this store.
        promote: Make that bundle live.
        epochs: Instead of the recipe's.
        seed: Instead of the recipe's.
        split: Instead of the recipe's.
        cache: Folder for downloads. Default: $XDG_CACHE_HOME/two-tower.
        as_json: Print the result as JSON on stdout.
    """
    chosen = _override(recipes.load(recipe_name), epochs, seed, split)
    folder = _data_folder(chosen, recipe_name, data_folder, cache)
    dataset, parts = _read(chosen, folder)

    import_tensorflow()
    from trainer import training
    from trainer.evaluation import evaluate_test, evaluate_validation
    from trainer.progress import EpochProgress
    from trainer.publishing import publish as publish_run
    from trainer.runs import Run, write_evaluation

    schemas = schema.build(chosen, dataset, parts.train)
    run_folder = run or Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%dT%H%M%S}"
    steps = len(parts.train) // min(chosen.training.batch_size, len(parts.train))
    progress = EpochProgress(chosen.training.epochs, steps)
    try:
        towers = training.fit(
            chosen,
            dataset,
            schemas,
            parts,
            validate=lambda towers: evaluate_validation(chosen, dataset, schemas, towers, parts),
            log_folder=run_folder / "tensorboard",
            callbacks=[progress],
        )
    finally:
        progress.stop()
    finished = Run.of(chosen, folder, schemas, towers)
    finished.save(run_folder)
    evaluation = evaluate_test(chosen, dataset, schemas, towers, parts)
    write_evaluation(run_folder, evaluation)
    console.print_evaluation(evaluation, f"{chosen.name}, {chosen.split.kind}, test part, full ranking")
    console.console.print(f"run: {run_folder}   curves: tensorboard --logdir {run_folder / 'tensorboard'}")
    result: dict[str, Any] = {"run": str(run_folder), **dataclasses.asdict(evaluation)}
    if store is not None:
        manifest = publish_run(BundleStore(store), finished, dataset, parts, evaluation)
        result["bundle_version"] = manifest.bundle_version
        _report_published(BundleStore(store), manifest, promote)
    _print_json(result, as_json)


@app.command
def evaluate(run: Path, /, *, as_json: Json = False) -> None:
    """Evaluate a finished run on its test part again, beside popularity.

    Args:
        run: Folder that `train` wrote.
        as_json: Print the result as JSON on stdout.
    """
    import_tensorflow()
    from trainer.evaluation import evaluate_test
    from trainer.runs import Run, write_evaluation

    finished = Run.load(run)
    dataset, parts = _read(finished.recipe, finished.data_folder)
    evaluation = evaluate_test(finished.recipe, dataset, finished.schemas, finished.towers, parts)
    write_evaluation(run, evaluation)
    console.print_evaluation(
        evaluation, f"{finished.recipe.name}, {finished.recipe.split.kind}, test part, full ranking"
    )
    _print_json(dataclasses.asdict(evaluation), as_json)


@app.command
def publish(run: Path, /, *, store: Store, promote: bool = False, as_json: Json = False) -> None:
    """Publish a finished run as a bundle.

    Args:
        run: Folder that `train` wrote.
        store: Folder of bundles; made where it is missing.
        promote: Make the bundle live.
        as_json: Print the result as JSON on stdout.
    """
    import_tensorflow()
    from trainer.evaluation import evaluate_test
    from trainer.publishing import publish as publish_run
    from trainer.runs import Run

    finished = Run.load(run)
    dataset, parts = _read(finished.recipe, finished.data_folder)
    evaluation = evaluate_test(finished.recipe, dataset, finished.schemas, finished.towers, parts)
    bundles = BundleStore(store)
    manifest = publish_run(bundles, finished, dataset, parts, evaluation)
    _report_published(bundles, manifest, promote)
    _print_json({"bundle_version": manifest.bundle_version, **dataclasses.asdict(evaluation)}, as_json)


@app.command
def bundles(*, store: Store, as_json: Json = False) -> None:
    """List the bundles of a store, newest first, and which one is live.

    Args:
        store: Folder of bundles.
        as_json: Print the list as JSON on stdout.
    """
    opened = BundleStore(store)
    pointer = opened.live()
    rows: list[dict[str, Any]] = []
    for version in reversed(opened.versions()):
        state = ""
        if pointer is not None and version in pointer.served:
            state = "live" if version == pointer.version else "before it"
        try:
            m = opened.manifest(version)
            rows.append(
                {
                    "bundle": version,
                    "state": state,
                    "model": m.model_version,
                    "items": m.item_count,
                    "ndcg\n@10": round(m.metrics.get("ndcg@10", float("nan")), 4),
                    "index\nrecall": round(m.index.recall_at_100, 4),
                }
            )
        except BundleRefused as refused:
            rows.append({"bundle": version, "state": "damaged", "model": refused.message})
    if rows:
        console.print_rows(str(store), rows)
    else:
        console.console.print(f"{store} holds no bundle; publish one with `python -m trainer train … --store {store}`")
    _print_json(rows, as_json)


@app.command
def promote(version: str, /, *, store: Store) -> None:
    """Make a bundle live, after verifying every file of it.

    Args:
        version: As `bundles` lists it.
        store: Folder of bundles.
    """
    BundleStore(store).promote(version)
    console.console.print(f"live: {version}")


@app.command
def rollback(*, store: Store) -> None:
    """Make the bundle live that was live before.

    Args:
        store: Folder of bundles.
    """
    pointer = BundleStore(store).roll_back()
    console.console.print(f"live: {pointer.version}")


@app.command
def prune(*, store: Store, keep: int = 5) -> None:
    """Remove the oldest bundles; never the live one or the one before it.

    Args:
        store: Folder of bundles.
        keep: How many of the newest to leave, at least 1.
    """
    if keep < 1:
        console.fail(f"--keep is {keep}, expected at least 1")
    removed = BundleStore(store).prune(keep)
    console.console.print(f"removed {len(removed)}" + "".join(f"\n  {version}" for version in removed))


def _override(chosen: Recipe, epochs: int | None, seed: int | None, split: str | None) -> Recipe:
    raw = chosen.to_json()
    for section, key, value in (("training", "epochs", epochs), (None, "seed", seed), ("split", "kind", split)):
        if value is not None:
            (raw[section] if section else raw)[key] = value
    return recipes.parse(raw, "the command line")


def _data_folder(chosen: Recipe, name: str, folder: Path | None, cache: Path | None) -> Path:
    if folder is not None:
        return folder
    if chosen.download is None:
        return Path(name).parent
    console.console.print(f"data: {chosen.download.package} {chosen.download.version}. {chosen.download.note}")
    return download.fetch(chosen.download, cache or download.cache_folder())


def _read(chosen: Recipe, folder: Path) -> tuple[data.Dataset, Parts]:
    dataset = data.load(chosen, folder)
    parts = splits.split(dataset, chosen.split)
    console.print_data(chosen, dataset, parts)
    return dataset, parts


def _report_published(store: BundleStore, manifest: Manifest, promote: bool) -> None:
    index = manifest.index
    console.console.print(
        f"published {manifest.bundle_version}: {manifest.item_count:,} items, {index.kind} with "
        f"{index.parameters['trees']} trees, search budget {index.search_budget}, recall@100 {index.recall_at_100:.4f}"
    )
    if promote:
        store.promote(manifest.bundle_version)
        console.console.print(f"live: {manifest.bundle_version}")
    else:
        console.console.print(
            f"not live yet: `python -m trainer promote {manifest.bundle_version} --store {store.root}`"
        )


def _print_json(value: Any, wanted: bool) -> None:
    if wanted:
        print(json.dumps(value, indent=2))
