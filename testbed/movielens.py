"""Training on MovieLens-100k in a separate process, and queries of its users, for tests, benchmarks and examples."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT
from testbed.synthetic_bundles import copy_live
from trainer.data import download
from trainer.data.dataset import Dataset, load_dataset
from trainer.recipe import loading

_RECIPE = "movielens_100k"
_QUERIES = 200


def print_heading(text: str) -> None:
    """Prints a heading, and flushes the output."""
    print(f"\n=== {text}", flush=True)


def train(folder: Path, store: FolderStore, epochs: int, seed: int, *, force: bool = False) -> str:
    """Trains on MovieLens-100k in a separate process, promotes the bundle, and returns its version.

    The towers are not refitted on training and validation part together, which would double the time.

    Args:
        folder: folder in which the folder of the run is created.
        store: store to publish the bundle to.
        epochs: number of epochs.
        seed: seed of the training.
        force: whether to promote the bundle even if it fails publish gates.
    """
    run_folder = folder / "runs" / f"seed-{seed}"
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        _RECIPE,
        "--store",
        str(store.root),
        "--promote",
        "--no-baselines",
    ]
    command += ["--epochs", str(epochs), "--no-refit", "--seed", str(seed), "--run", str(run_folder)]
    command += ["--force"] if force else []
    sys.stdout.flush()
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    pointer = store.live()
    if pointer is None:
        raise RuntimeError("the trainer promoted nothing")
    return pointer.version


def copy_or_train(source: Path | None, folder: Path, store: FolderStore, epochs: int = 1) -> str:
    """Promotes a trained bundle in an empty store, whatever its quality, and returns its version.

    Args:
        source: store whose live bundle is copied. None: trains on MovieLens-100k, with seed 1.
        folder: folder in which the folder of the run is created.
        store: empty store that gets the bundle.
        epochs: number of epochs of the training.

    Raises:
        BundleNotFound: no bundle is live in `source`.
    """
    if source is None:
        return train(folder, store, epochs, seed=1, force=True)
    return copy_live(FolderStore(source), store)


@functools.cache
def read_dataset() -> Dataset:
    """Returns the data set MovieLens-100k: users, items and events."""
    recipe = loading.load(_RECIPE)
    assert recipe.download is not None
    return load_dataset(recipe, download.fetch(recipe.download, download.cache_folder()))


def read_queries() -> list[dict[str, object]]:
    """Returns the query features of some users of MovieLens-100k, by feature name, in the form that clients send."""
    dataset = read_dataset()
    events, starts = dataset.events, dataset.events.starts(len(dataset.user_ids))
    queries: list[dict[str, object]] = []
    for user in range(_QUERIES):
        history = [dataset.items.ids[item] for item in events.items[starts[user] : starts[user + 1]][-20:]]
        profile = {name: column[user] for name, column in dataset.user_columns.items()}
        queries.append({"history": history, **{n: v for n, v in profile.items() if v is not None}})
    return queries
