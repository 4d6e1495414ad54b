"""`make demo`: trains on MovieLens-100k, serves, retrieves, retrains, and swaps under traffic."""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import time
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from testbed.load import Load
from testbed.movielens import read_dataset, read_queries, train
from testbed.offline import OfflineBundle
from testbed.services import Pair, wait_until
from two_tower_client import Retriever

_FOLDER = Path("runs/demo")
_SHOWN_USERS = 3
_ANSWERS = 200
"""Number of answers from the second bundle to wait for before the demo ends."""


def main() -> int:
    """Runs the demo with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="examples.demo", description=__doc__)
    parser.add_argument("--epochs", type=int, default=7, help="epochs of each of the two trainings (default: 7)")
    parser.add_argument(
        "--clients", type=int, default=4, help="client threads that send requests during the swap (default: 4)"
    )
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second of all clients (default: 40)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="new folder for store, runs and logs (default: runs/demo, in place of the last ones)",
    )
    arguments = parser.parse_args()
    if min(arguments.epochs, arguments.clients) < 1 or not arguments.rate > 0:
        parser.error("--epochs and --clients take a number of at least 1, --rate a positive one")
    if arguments.folder is None:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    elif arguments.folder.exists():
        parser.error(f"--folder {arguments.folder} exists; name a new one")
    return run(arguments.folder or _FOLDER, arguments.epochs, arguments.clients, arguments.rate)


def run(folder: Path, epochs: int, clients: int, rate: float) -> int:
    """Runs the demo, and returns the exit code: 0 if no request failed and every answer was right, else 1.

    Args:
        folder: folder for the store, the runs and the logs.
        epochs: number of epochs of each of the two trainings.
        clients: number of threads that send requests during the second training and the swap.
        rate: requests per second of all threads together.
    """
    began = time.monotonic()

    def step(what: str) -> None:
        print(f"\n[{time.monotonic() - began:3.0f} s] {what}", flush=True)

    store = FolderStore(folder / "store")
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
    print("\nNext")
    print(
        f"make serve STORE={store.root}    both services with these bundles, on ports 50051 and 50052\n"
        ".venv/bin/two-tower retrieve --feature history=50,181 --feature age=24 --k 10 --attribute title\n"
        "                                    while they run, from another shell\n"
        "README.md, 'Your own data'          a recipe for your tables"
    )
    return 0 if tally.sent and not tally.failed and not tally.mixed else 1


def show(retriever: Retriever, queries: list[dict[str, object]]) -> None:
    """Prints for each query the films that the user watched and the films that are retrieved.

    Args:
        retriever: client of both services.
        queries: features of each query, with the user's history.
    """
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


if __name__ == "__main__":
    sys.exit(main())
