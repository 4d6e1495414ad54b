"""`make demo-search`: product search with running services, ranked by BM25, by the towers and by both fused.

Serves the live bundle of the store; if there is none, trains one with the recipe product_search first. Starts both
services on free ports, sends development queries, and prints the products of each ranking side by side. Each product
has its relevance grade, 0 (irrelevant) to 3, or a dot if it was not graded. Finally prints the metrics of each ranking
over all queries.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

from retrieval.bundle.layout import LEXICAL_DESCRIPTION
from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from testbed import served_search
from testbed.movielens import print_heading
from testbed.served_search import GRADED, RANKINGS
from testbed.services import ROOT, Pair
from trainer.errors import TrainerError
from trainer.evaluation import graded_queries
from trainer.evaluation.graded_queries import Graded
from trainer.recipe import loading
from two_tower_client import Retrieval, Retriever

_RECIPE = "product_search"
_TITLE_WIDTH = 34
_METRICS = ("ndcg@10", "recall@100", "mrr")


def main() -> int:
    """Runs the demo with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="examples.demo_search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help=f"folder of the catalogue, with {GRADED}. {loading.load(_RECIPE).origin}",
    )
    parser.add_argument(
        "--recipe", default=_RECIPE, help="recipe to train if the store has no live bundle (default: %(default)s)"
    )
    parser.add_argument(
        "--store", type=Path, default=Path("runs/demo-search/store"), help="bundle store (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, help="epochs of the training (default: the recipe's)")
    parser.add_argument(
        "--queries", type=int, default=5, help="queries to show; the metrics use all (default: %(default)s)"
    )
    parser.add_argument("--k", type=int, default=5, help="products to show of each ranking (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        queries = graded_queries.read(arguments.data / GRADED, None)
        store = FolderStore(arguments.store)
        manifest = live_bundle(store) or train(store, arguments.recipe, arguments.data, arguments.epochs)
    except TrainerError as error:
        print(f"demo-search: {error}", file=sys.stderr)
        return 1
    if not has_words(manifest):
        print(
            f"demo-search: bundle {manifest.bundle_version}, live in {store.root}, has no lexical index, and so is "
            f"none of {_RECIPE}; name another store with --store (make demo-search STORE=DIR)",
            file=sys.stderr,
        )
        return 1
    return run(store, manifest, queries, shown=arguments.queries, k=arguments.k)


def live_bundle(store: FolderStore) -> Manifest | None:
    """Returns the manifest of the live bundle of a store; None if no bundle is live."""
    live = store.live()
    return None if live is None else store.manifest(live.version)


def has_words(manifest: Manifest) -> bool:
    """Returns whether a bundle has a lexical index, so that it can be searched by words."""
    return LEXICAL_DESCRIPTION in manifest.files


def train(store: FolderStore, recipe: str, data: Path, epochs: int | None) -> Manifest:
    """Trains a recipe in a separate process, promotes the bundle, and returns its manifest.

    Args:
        store: store to publish the bundle to.
        recipe: name of a shipped recipe, or path of a TOML file.
        data: folder of the product catalogue.
        epochs: number of epochs; None: that of the recipe.

    Raises:
        TrainerError: training or publishing failed. The process has printed the reason.
    """
    print_heading(f"Train {recipe} and publish it to {store.root}: some minutes, once")
    command = [sys.executable, "-m", "trainer", "train", recipe, "--data", str(data), "--store", str(store.root)]
    command += ["--run", str(store.root.parent / "run"), "--promote", *(["--epochs", str(epochs)] if epochs else [])]
    began = time.monotonic()
    code = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}, check=False
    ).returncode
    manifest = live_bundle(store)
    if code or manifest is None:
        raise TrainerError(f"the training ended with code {code}; see above")
    print(f"trained and published in {time.monotonic() - began:.0f} s")
    return manifest


def run(store: FolderStore, manifest: Manifest, queries: Graded, *, shown: int, k: int) -> int:
    """Starts both services, sends the queries, prints results and metrics, and returns the exit code.

    Args:
        store: store whose live bundle is served.
        manifest: manifest of the live bundle.
        queries: graded queries.
        shown: number of queries whose results are printed.
        k: number of products to print for each ranking.
    """
    (feature, *others) = [f["name"] for f in manifest.feature_schema["features"] if f["kind"] == "text"]
    if others:
        raise TrainerError(f"the query tower reads {1 + len(others)} texts; a query is one")
    print_heading(
        f"Start both services on free ports, with bundle {manifest.bundle_version} of {manifest.item_count:,} products"
    )
    with tempfile.TemporaryDirectory(prefix="two-tower-demo-search-") as logs, Pair(store.root, Path(logs)) as pair:
        query_tower, ann = pair.query_towers[0].address, pair.anns[0].address
        print(f"query tower service on {query_tower}, ANN service on {ann}")
        with Retriever(query_tower, ann, timeout_s=30.0) as retriever:
            answers = [served_search.ask(retriever, feature, query, ["title"]) for query in queries.queries]
    for query, ratings, answer in list(zip(queries.queries, queries.ratings, answers, strict=True))[:shown]:
        print(f"\n{query}\n  " + "  ".join(name.ljust(2 + _TITLE_WIDTH) for name in RANKINGS).rstrip())
        columns = [_cells(answer[name], ratings, k) for name in RANKINGS]
        for row in range(k):
            print("  " + "  ".join(column[row] for column in columns).rstrip())
    print_heading(f"All {len(queries.queries)} queries with a relevant product")
    print("  " + " " * 20 + "  ".join(name.rjust(10) for name in _METRICS))
    for name, metrics in served_search.measure(queries, answers).items():
        print(f"  {name:<20}" + "  ".join(f"{metrics[metric]:10.4f}" for metric in _METRICS))
    return 0


def _cells(answer: Retrieval, grades: Mapping[str, int], k: int) -> list[str]:
    """Returns the first `k` products of an answer as lines of equal width, each with grade and title.

    Args:
        answer: answer of one ranking, with titles.
        grades: grades of the query by item id; other items get a dot.
        k: number of lines.
    """
    titles = [textwrap.shorten(str(hit.attributes["title"]), _TITLE_WIDTH, placeholder="…") for hit in answer]
    lines = [f"{grades.get(item, '.')} {title}" for item, title in zip(answer.item_ids, titles, strict=True)][:k]
    return [line.ljust(2 + _TITLE_WIDTH) for line in [*lines, *[""] * (k - len(lines))]]


if __name__ == "__main__":
    sys.exit(main())
