"""What live features are worth: a simulated session on MovieLens, by how fresh the history of the user is.

```console
$ python -m benchmarks.quality.live_session
```

The towers are trained on the oldest events of all users, and every event of the test part is a request of its own: the
film that the user rated next has to be found among all films that the user had not rated yet. The same towers answer
with histories that end at different times: just before the event, some minutes or an hour before, or at the midnight
before (UTC), as a store that a nightly job fills would have it. Only the history differs: the candidates of one event
are the same in all rows, but in the last one, where the films of the day are not left out either, because nobody knows
of them. An event of the same second as the request is not part of the history.

``NDCG@10`` of an event is 1 / log2(1 + rank) of its film, 0 beyond rank 10. Means are over users, of the mean of each
user; the difference to the midnight before has the 95 % bootstrap interval over users. Exits with 1 unless the history
that ends at the event is better, for certain, than that of the midnight before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.timing import print_table
from retrieval.bundle.features.event_kinds import REQUEST_TIME
from retrieval.bundle.features.kinds import History
from retrieval.inference.deployed_bundle import DeployedBundle
from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT
from trainer.data import sources
from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.data.splits import Data
from trainer.evaluation.bootstrap import bootstrap, paired
from trainer.features.event_schema import histories_of
from trainer.recipe import loading
from trainer.recipe.recipe import USER_ID

_RECIPE = "movielens_100k"
_DAY_S = 86_400.0
_AT_ONCE = 1024
"""Requests whose scores are held in memory at once."""

AT_EVENT, MIDNIGHT, UNAWARE = "the event", "the midnight before", "the midnight before, films of the day not left out"
ENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    AT_EVENT: lambda times: times,
    "1 minute before": lambda times: times - 60,
    "10 minutes before": lambda times: times - 600,
    "1 hour before": lambda times: times - 3600,
    MIDNIGHT: lambda times: times // _DAY_S * _DAY_S,
}
"""When the history of a request ends, by name: from the times of the requests to the first times that are left out."""


@dataclass(frozen=True)
class Requests:
    """The events of the test part, each of which is a request of its user.

    Attributes:
        users: [n] int64, row of the user.
        items: [n] int64, row of the film that is to be found.
        times: [n] float64, time of the request in seconds since 1970.
        first: [n] int64, row of the user's first event.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    first: np.ndarray

    @staticmethod
    def of(events: Events, test: Events, user_count: int) -> Requests:
        """Returns a request for each event of `test`."""
        users = test.users.astype(np.int64)
        return Requests(users, test.items.astype(np.int64), np.array(test.times), events.starts(user_count)[users])

    def ends(self, events: Events, times: np.ndarray) -> np.ndarray:
        """Returns the row after the last event of each user before a time: [n] int64.

        Args:
            events: All events, sorted by user, then time.
            times: [n] float64, seconds since 1970.
        """
        stops = np.searchsorted(events.users, self.users, side="right")
        own = zip(self.first.tolist(), stops.tolist(), times.tolist(), strict=True)
        return np.array([first + np.searchsorted(events.times[first:stop], time) for first, stop, time in own])


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality.live_session", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, help="store whose live bundle was trained with a split by time")
    parser.add_argument("--seed", type=int, default=1, help="seed of the training without --store (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-tower-session-") as temporary:
        store = FolderStore(arguments.store or Path(temporary) / "store")
        if arguments.store is None:
            _train(store, Path(temporary) / "run", arguments.seed)
        manifest = store.manifest(store.live_version())
        recipe = loading.parse_stored(manifest.recipe, "the recipe of the bundle")
        if recipe.split.kind != "global_temporal":
            print(
                f"benchmarks.quality.live_session: the bundle was trained with the split {recipe.split.kind}, so it "
                "knows events after those of the test; train with --split global_temporal",
                file=sys.stderr,
            )
            return 1
        data = sources.read(recipe, sources.data_folder(recipe, recipe.name))
        measured, requests, has_old = measure(DeployedBundle.open(store, manifest.bundle_version), data)
    return report(measured, requests, has_old)


def _train(store: FolderStore, run: Path, seed: int) -> None:
    command = [sys.executable, "-m", "trainer", "train", _RECIPE, "--split", "global_temporal", "--no-baselines"]
    command += ["--seed", str(seed), "--run", str(run), "--store", str(store.root), "--promote", "--force"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)


def measure(bundle: DeployedBundle, data: Data) -> tuple[dict[str, np.ndarray], Requests, np.ndarray]:
    """Returns the ranks of the films by name of the end of the histories, the requests, and which have an old history.

    A rank is [n] int64, 1 for the best. A request has an old history if its user had events at the midnight before.

    Args:
        bundle: Bundle that was not trained on the test part.
        data: Data set, split by time.
    """
    dataset, events = data.dataset, data.dataset.events.relevant
    requests = Requests.of(events, data.parts.test, len(dataset.user_ids))
    place = bundle_rows(bundle, dataset)
    fresh = requests.ends(events, requests.times)
    ranks: dict[str, np.ndarray] = {}
    for name, end_of in ENDS.items():
        ends = requests.ends(events, end_of(requests.times))
        embeddings = _embed(bundle, dataset, events, requests, ends)
        ranks[name] = _rank(bundle, place, embeddings, events, requests, fresh)
        if name == MIDNIGHT:
            ranks[UNAWARE] = _rank(bundle, place, embeddings, events, requests, ends)
            has_old = ends > requests.first
    return ranks, requests, has_old


def bundle_rows(bundle: DeployedBundle, dataset: Dataset) -> np.ndarray:
    """Returns the row of each item of a data set in a bundle: [item_count] int64.

    Raises:
        RuntimeError: The bundle lacks an item.
    """
    own = {item_id: row for row, item_id in enumerate(bundle.item_ids)}
    try:
        return np.array([own[item_id] for item_id in dataset.items.ids])
    except KeyError as error:
        raise RuntimeError(f"the bundle lacks the item {error} of the tables; train it with the same ones") from error


def _embed(
    bundle: DeployedBundle, dataset: Dataset, events: Events, requests: Requests, ends: np.ndarray
) -> np.ndarray:
    """Returns the embeddings of the requests with histories that end before the rows `ends`: [n, dim] float32."""
    schema = bundle.query_tower.schema
    longest = 1 + max((f.max_values for f in schema.features if isinstance(f, History)), default=0)
    first = np.maximum(requests.first, ends - longest)
    counts = ends - first
    starts = np.concatenate([[0], np.cumsum(counts)])
    known = events.take(np.repeat(first - starts[:-1], counts) + np.arange(starts[-1]))
    of_users = {USER_ID: dataset.user_ids, **dataset.user_columns}
    columns = {
        name: [column[user] for user in requests.users] for name, column in of_users.items() if name in schema.by_name
    }
    columns |= histories_of(schema, dataset.items.ids, known, starts, np.arange(len(ends)))
    if REQUEST_TIME in schema.by_name:
        columns[REQUEST_TIME] = requests.times.tolist()
    return bundle.embed(columns, len(ends))


def _rank(
    bundle: DeployedBundle,
    place: np.ndarray,
    embeddings: np.ndarray,
    events: Events,
    requests: Requests,
    ends: np.ndarray,
) -> np.ndarray:
    """Returns the rank of the film of each request among those that the user has not rated: [n] int64.

    Items of equal score count as better, so that ties win nothing.

    Args:
        bundle: Bundle whose items are ranked.
        place: [items of the data set] int64, row of each item in the bundle.
        embeddings: [n, dim] float32, of the requests.
        events: All events, sorted by user, then time.
        requests: The requests.
        ends: [n] int64, row after the last event of the user that is left out of the ranking.
    """
    ranks = np.empty(len(embeddings), dtype=np.int64)
    for start in range(0, len(embeddings), _AT_ONCE):
        scores = embeddings[start : start + _AT_ONCE] @ bundle.vectors.T  # [block, item_count]
        for number, row in enumerate(scores, start):
            wanted = place[requests.items[number]]
            score = row[wanted]
            row[place[events.items[requests.first[number] : ends[number]]]] = -np.inf
            row[wanted] = -np.inf
            ranks[number] = 1 + np.count_nonzero(row >= score)
    return ranks


def gains(ranks: np.ndarray) -> np.ndarray:
    """Returns the NDCG@10 of requests with one relevant item each: [n] float64 for ranks [n] int64, 1 for the best."""
    return np.where(ranks <= 10, 1.0 / np.log2(1.0 + ranks), 0.0)


def of_users(users: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the mean of the values of each user that has any: [user_count] float64, by row of the user.

    Args:
        users: [n] int64, owner of each value.
        values: [n] float64.
    """
    counts, sums = np.bincount(users), np.bincount(users, values)
    return sums[counts > 0] / counts[counts > 0]


def report(ranks: dict[str, np.ndarray], requests: Requests, has_old: np.ndarray) -> int:
    """Prints a table for all requests, and one for those with an old history; returns the exit code."""
    failed = False
    parts = {
        "all requests": np.ones(len(has_old), dtype=bool),
        "requests of users who had rated films before that day": has_old,
        "requests of users who had not": ~has_old,
    }
    for title, mask in parts.items():
        if not mask.any():
            continue
        users = requests.users[mask]
        by_user = {name: of_users(users, gains(found[mask])) for name, found in ranks.items()}
        hits = {name: of_users(users, (found[mask] <= 10).astype(np.float64)) for name, found in ranks.items()}
        rows: list[list[str]] = []
        for name, values in by_user.items():
            low, high = bootstrap(values[:, None])[:, 0].tolist()
            mean, least, most = paired(values[:, None], by_user[MIDNIGHT][:, None])[:, 0].tolist()
            difference = "" if name == MIDNIGHT else f"{mean:+.4f} [{least:+.4f}, {most:+.4f}]"
            figures = [f"{values.mean():.4f} [{low:.4f}, {high:.4f}]", f"{hits[name].mean():.4f}", difference]
            rows.append([name, *figures])
            failed |= name == AT_EVENT and mask.all() and least <= 0
        head = ["history ends at", "NDCG@10", "HR@10", "NDCG@10 beside the midnight before"]
        print_table(f"{title}: {mask.sum():,} of {len(np.unique(users)):,} users", head, rows)
    if failed:
        print("missed: a history that ends at the event is not better, for certain, than that of the midnight before")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
