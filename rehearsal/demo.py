"""`make demo`: trains on MovieLens-100k, serves, retrieves, retrains, and swaps under traffic."""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bundle.store import BundleStore
from rehearsal.load import Load
from rehearsal.offline import OfflineBundle
from rehearsal.pair import ROOT, Pair, wait_until
from trainer import data, download, recipes
from two_tower_client import Retriever

_RECIPE = "movielens_100k"
_SHOWN_USERS = 3
_QUERIES = 200
_ANSWERS = 200
"""To wait for from the second bundle, once it answers."""


def main() -> int:
    """Runs the demo and returns the exit code."""
    parser = argparse.ArgumentParser(prog="rehearsal.demo", description=__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="of each of the two trainings (default: 10)")
    parser.add_argument("--clients", type=int, default=4, help="that send requests during the swap (default: 4)")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second, of all clients (default: 40)")
    parser.add_argument("--keep", type=Path, help="leave store, runs and logs in this folder (default: remove them)")
    arguments = parser.parse_args()
    if min(arguments.epochs, arguments.clients) < 1 or not arguments.rate > 0:
        parser.error("--epochs and --clients take a number of at least 1, --rate a positive one")
    with tempfile.TemporaryDirectory(prefix="two-tower-demo-") as temporary:
        return run(arguments.keep or Path(temporary), arguments.epochs, arguments.clients, arguments.rate)


def run(folder: Path, epochs: int, clients: int, rate: float) -> int:
    """Runs the demo in `folder`; returns 0 where no request failed and none was mixed.

    Args:
        folder: for store, runs and logs.
        epochs: of each of the two trainings.
        clients: threads that send requests during the second training and the swap.
        rate: requests a second, of all clients together.
    """
    began = time.monotonic()

    def step(what: str) -> None:
        print(f"\n[{time.monotonic() - began:3.0f} s] {what}", flush=True)

    store = BundleStore(folder / "store")
    step("fetching MovieLens-100k, unless it was fetched before")
    queries = read_queries()
    step(f"training the first model ({epochs} epochs) and publishing it as a bundle")
    first = train(folder, store, epochs, seed=1)
    offline = functools.cache(lambda version: OfflineBundle(store, version, queries))

    step("starting both services on free ports")
    with Pair(store.root, folder / "logs") as pair:
        query_tower, ann = pair.query_towers[0].address, pair.anns[0].address
        print(f"query tower service on {query_tower}, ANN service on {ann}")
        with Retriever(query_tower, ann, timeout_s=10.0) as retriever:
            step(f"first recommendations, for {_SHOWN_USERS} users, from features to titles")
            show(retriever, queries)
            step(f"training the second model, with another seed, while {clients} clients ask {rate:g} times a second")
            with Load(retriever, queries, offline, clients=clients, rate=rate) as load:
                second = train(folder, store, epochs, seed=2)
                step("promoted the second model; both services swap to it while the clients keep asking")
                wait_until(lambda: load.tally.bundles[second] > 0, f"an answer from {second}")
                step(f"the first answer from {second}; waiting for {_ANSWERS} more")
                answered = load.tally.bundles[second]
                wait_until(lambda: load.tally.bundles[second] >= answered + _ANSWERS, f"{_ANSWERS} answers")
            step("the same users, answered by the new bundle; no process was restarted")
            show(retriever, queries)
    tally = load.tally
    step("every answer was compared with what its bundle answers offline; one that differs is mixed")
    for version in (first, second):
        print(f"answers of {version}: {tally.bundles[version]:,}")
    for message, count in tally.failures.most_common(3):
        print(f"failed {count} x: {message}")
    print(f"sent {tally.sent:,}, failed {tally.failed}, mixed {tally.mixed}")
    say("Next")
    print(
        "make serve STORE=store                 both services on ports 50051 and 50052, after\n"
        "  .venv/bin/python -m trainer train movielens_100k --store store --promote\n"
        ".venv/bin/two-tower retrieve --feature history=50,181 --feature age=24 --k 10 --attribute title\n"
        "README.md, 'Your own data'             a recipe for your tables"
    )
    return 0 if tally.sent and not tally.failed and not tally.mixed else 1


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
def read_dataset() -> data.Dataset:
    """Returns MovieLens-100k."""
    recipe = recipes.load(_RECIPE)
    assert recipe.download is not None
    return data.load(recipe, download.fetch(recipe.download, download.cache_folder()))


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


def show(retriever: Retriever, queries: list[dict[str, object]]) -> None:
    """Prints what users watched beside what is retrieved for them."""
    items = read_dataset().items
    titles = items.attributes["title"]
    for query in queries[:_SHOWN_USERS]:
        history = list(map(str, query["history"]))  # type: ignore[call-overload]
        profile = ", ".join(str(query[name]) for name in ("age", "gender", "occupation") if name in query)
        answer = retriever.retrieve(query, k=5, exclude=history, return_attributes=["title", "year"])
        print(f"\n{profile}   (bundle {answer.bundle_version})")
        print(f"  {'watched last':<42}  recommended")
        for watched, hit in zip(reversed(history[-5:]), answer, strict=False):
            title = str(titles.at(items.rows[watched]))
            print(f"  {title[:42]:<42}  {hit.score:.3f}  {hit.attributes['title']} ({hit.attributes['year']})")


def say(what: str) -> None:
    """Prints a heading."""
    print(f"\n=== {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
