"""MovieLens-100k for tests, benchmarks and examples: trained in a process of its own, and queries of its users."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from retrieval.store.store import BundleStore
from testbed.services import ROOT
from trainer.data import download
from trainer.data.dataset import Dataset, load_dataset
from trainer.recipe import loading

_RECIPE = "movielens_100k"
_QUERIES = 200


def print_heading(text: str) -> None:
    """Prints a heading, at once."""
    print(f"\n=== {text}", flush=True)


def train(folder: Path, store: BundleStore, epochs: int, seed: int, *, force: bool = False) -> str:
    """Trains, publishes and promotes in a process of its own; returns the version that is live then.

    The towers are not fitted again on training and validation, which would take as long again.

    Args:
        folder: the run goes below it.
        store: to publish to.
        epochs: of the training.
        seed: of the training.
        force: promote past publish gates.
    """
    run_folder = folder / "runs" / f"seed-{seed}"
    command = [sys.executable, "-m", "trainer", "train", _RECIPE, "--store", str(store.root), "--promote"]
    command += ["--epochs", str(epochs), "--no-refit", "--seed", str(seed), "--run", str(run_folder)]
    command += ["--force"] if force else []
    sys.stdout.flush()
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    pointer = store.live()
    if pointer is None:
        raise RuntimeError("the trainer promoted nothing")
    return pointer.version


@functools.cache
def read_dataset() -> Dataset:
    """Returns MovieLens-100k."""
    recipe = loading.load(_RECIPE)
    assert recipe.download is not None
    return load_dataset(recipe, download.fetch(recipe.download, download.cache_folder()))


def read_queries() -> list[dict[str, object]]:
    """Returns the features of some users, as a caller would send them."""
    dataset = read_dataset()
    events, starts = dataset.events, dataset.events.starts(len(dataset.user_ids))
    queries: list[dict[str, object]] = []
    for user in range(_QUERIES):
        history = [dataset.items.ids[item] for item in events.items[starts[user] : starts[user + 1]][-20:]]
        profile = {name: column[user] for name, column in dataset.user_columns.items()}
        queries.append({"history": history, **{n: v for n, v in profile.items() if v is not None}})
    return queries
