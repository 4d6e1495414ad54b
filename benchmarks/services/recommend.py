"""Measures lists for everybody: ``python -m benchmarks.services.recommend``.

Runs ``python -m trainer recommend`` as a process, for users with synthetic histories and a synthetic catalogue, and
measures time and memory. Then starts both services, and compares the lists of some users with their answers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.timing import print_table
from retrieval.bundle.layout import VECTORS
from retrieval.index.registry import STRUCTURES
from retrieval.store.folder_store import FolderStore
from testbed import synthetic_catalogue
from testbed.services import ROOT, Pair
from testbed.synthetic_bundles import write_bundle_of
from testbed.synthetic_vectors import spread_items
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index
from two_tower_client import Retriever

_K = 100
_LONGEST_HISTORY = 40
_KNOWN_ITEMS = 2000
"""Items with training events in the synthetic catalogue, of which histories consist."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Run:
    """Measurements of one command.

    Attributes:
        wall_s: Time of the command in seconds.
        cpu_s: Processor time of the command in seconds, all cores together.
        own_mib: Largest memory of the process that no file backs, in MiB.
        mapped_mib: Largest memory of the process with pages of files, in MiB; the system can take them back.
        result: What the command printed as JSON.
    """

    wall_s: float
    cpu_s: float
    own_mib: float
    mapped_mib: float
    result: dict[str, object]


def main() -> None:
    """Runs the measurement with the command line's arguments, and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="*", default=[100_000, 1_000_000], help="numbers of users")
    parser.add_argument("--items", type=int, default=1_000_000, help="size of the catalogue")
    parser.add_argument("--kind", default="faiss_ivf", choices=STRUCTURES)
    parser.add_argument("--store", type=Path, help="store with such a bundle, live (default: made anew)")
    parser.add_argument("--sample", type=int, default=200, help="users whose lists are compared with the services")
    parser.add_argument("--json", type=Path, help="JSON file to write all figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-tower-recommend-") as temporary:
        folder = Path(temporary)
        store = FolderStore(arguments.store or folder / "store")
        if arguments.store is None:
            make_store(store, arguments.items, arguments.kind)
        spec = store.manifest(store.live_version()).index
        print(f"{spec.kind} {dict(spec.parameters)}, budget {spec.search_budget}, recall@100 {spec.recall_at_100:.3f}")
        rows: list[list[str]] = []
        figures: list[dict[str, object]] = []
        for count in arguments.users:
            table, out = folder / f"users-{count}.parquet", folder / f"lists-{count}.parquet"
            make_users(count).write_parquet(table)
            run = recommend(store, table, out)
            size = sum(path.stat().st_size for path in out.iterdir())
            rows.append(
                [
                    f"{count:,}",
                    f"{run.wall_s:,.0f}",
                    f"{run.cpu_s:,.0f}",
                    f"{run.cpu_s / count * 1e6:,.0f}",
                    f"{run.own_mib:,.0f}",
                    f"{run.mapped_mib:,.0f}",
                    f"{size / 1e6:,.0f}",
                ]
            )
            figures.append({**asdict(run), "output_bytes": size})
            print(f"{count:,} users: {run.wall_s:,.0f} s, {run.cpu_s:,.0f} s of CPU", file=sys.stderr)
        head = ["users", "wall s", "CPU s", "CPU us a user", "own MiB", "with mapped files MiB", "output MB"]
        print_table(f"lists of {_K} of {store.manifest(store.live_version()).item_count:,} items", head, rows)
        equal, same_items, worst = compare(store, table, out, arguments.sample, folder)
        print(
            f"{arguments.sample} users asked of both services: {equal} lists equal in every rank, {same_items} in "
            f"their items; scores differ by at most {worst:.1e}"
        )
        figures.append({"sample": arguments.sample, "equal": equal, "same_items": same_items, "worst": worst})
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def make_store(store: FolderStore, item_count: int, kind: str) -> None:
    """Trains small towers, and writes and promotes a bundle with items around the trained ones.

    Args:
        store: empty store.
        item_count: number of items.
        kind: kind of the index.
    """
    synthetic_catalogue.train(store.root.with_name(f"{store.root.name}-training"), store, 1)
    base = store.live_version()
    vectors = spread_items(np.load(store.path(base) / VECTORS), item_count, 1)
    manifest = write_bundle_of(
        store,
        base,
        vectors,
        lambda path, queries: index_selection.build(vectors, queries, path, settings=Index(kind=kind), seed=1),
    )
    store.promote(manifest.bundle_version)


def make_users(count: int, seed: int = 7) -> pl.DataFrame:
    """Returns a table of users with an age, a segment and a history of 0 to 40 items."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, _LONGEST_HISTORY + 1, count)
    items = (_KNOWN_ITEMS * generator.random(int(lengths.sum())) ** 2).astype(np.int64)
    events = pl.DataFrame({"number": np.repeat(np.arange(count), lengths), "history": items})
    events = events.with_columns(history=pl.format("item-{}", "history"))
    users = pl.DataFrame(
        {
            "number": np.arange(count),
            "user": [f"user-{number}" for number in range(count)],
            "age": generator.integers(18, 80, count).astype(np.float64),
            "segment": [f"segment-{number % 7}" for number in range(count)],
        }
    )
    histories = events.group_by("number", maintain_order=True).agg("history")
    return users.join(histories, on="number", how="left", maintain_order="left").drop("number")


def recommend(store: FolderStore, table: Path, out: Path) -> Run:
    """Runs the command as a process, and measures it.

    Raises:
        RuntimeError: the command failed; the message is what it printed.
    """
    command = [sys.executable, "-m", "trainer", "recommend", "--store", str(store.root), "--users", str(table)]
    command += ["--k", str(_K), "--out", str(out), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients")])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    own = mapped = 0
    with (
        tempfile.TemporaryFile("w+") as printed,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=printed, text=True) as process,
    ):
        while process.poll() is None:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            kib = {
                line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss") or "VmRSS" in line
            }
            own, mapped = max(own, kib.get("RssAnon", 0)), max(mapped, kib.get("VmRSS", 0))
            time.sleep(_POLL_S)
        wall_s = time.perf_counter() - started
        told = process.stdout.read() if process.stdout is not None else ""
        if process.returncode:
            printed.seek(0)
            raise RuntimeError(f"recommend failed with {process.returncode}: {printed.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s, cpu_s, own / 1024, mapped / 1024, json.loads(told))


def compare(store: FolderStore, table: Path, out: Path, sample: int, folder: Path) -> tuple[int, int, float]:
    """Returns how many of some users get the same lists, and the same items, of both services, and the worst score.

    The worst score is the largest difference of two scores at the same rank.

    Args:
        store: store of the live bundle.
        table: table of users.
        out: lists of all users.
        sample: number of users to ask.
        folder: folder for the logs of the services.
    """
    users = pl.read_parquet(table)
    users = users[np.sort(np.random.default_rng(5).permutation(users.height)[:sample])]
    wanted = users["user"].implode()
    lists = pl.scan_parquet(sorted(out.glob("*.parquet"))).filter(pl.col("user_id").is_in(wanted)).collect()
    by_user = {str(user): rows for (user,), rows in lists.group_by("user_id", maintain_order=True)}
    equal = same_items = 0
    worst = 0.0
    with Pair(store.root, folder / "services") as pair:
        query_towers, anns = ([f"localhost:{r.port}" for r in rs] for rs in (pair.query_towers, pair.anns))
        with Retriever(query_towers, anns, timeout_s=20.0) as retriever:
            for row in users.iter_rows(named=True):
                rows, history = by_user[row.pop("user")], row["history"] or []
                answer = retriever.retrieve(row, _K, exclude=history)
                items = [hit.item_id for hit in answer]
                equal += items == rows["item_id"].to_list()
                same_items += set(items) == set(rows["item_id"])
                scores = np.array([hit.score for hit in answer])
                worst = max(worst, float(np.abs(scores - rows["score"].to_numpy()).max()))
    return equal, same_items, worst


if __name__ == "__main__":
    main()
