"""Cost of boosts, diversity, group limits and facets in a search, beside the search without them.

```console
$ python -m benchmarks.services.reranking --store STORE
```

Single searches with k = 100 over clustered synthetic items with a brand, tags and a year, from the bytes of the request
to those of the response, without gRPC. The kinds of search take turns, query by query; each ratio is that of two
searches with one query, one after the other. CPU time of the thread, so that other load of the machine matters little.
All work is on this thread: with more of them, it would wait for the others, at the cost of CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from ann_service import answers
from ann_service.catalogue import Catalogue
from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from benchmarks.timing import print_table
from retrieval.steps import run_to_end
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import K, Made, make_of
from testbed.movielens import copy_or_train
from testbed.synthetic_catalogue import make_attributes
from testbed.synthetic_vectors import make_data
from trainer.recipe.recipe import Index
from two_tower.ann.v1 import ann_service_pb2 as pb

_PLAIN = "plain"
_TREES, _RECALL = 50, 0.95


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its table, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.reranking", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, help="store whose live bundle has a query tower (default: train)")
    parser.add_argument("--items", type=int, default=100_000, help="number of synthetic items (default: 100,000)")
    parser.add_argument("--rounds", type=int, default=5, help="searches of each kind for a query (default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-tower-reranking-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        base = copy_or_train(arguments.store, folder, store)
        data = make_data(arguments.items, dimension=store.manifest(base).dimension)
        settings = Index(trees=(_TREES,), min_recall_at_100=_RECALL)
        made = make_of(store, base, data, settings, attributes=make_attributes(arguments.items))
        loader = CatalogueLoader(store, AnnConfig(store=store.root))
        with threadpool_limits(1, "blas"):
            _measure(loader.open(made.manifest.bundle_version, ()), made, arguments.rounds)
    return 0


def _measure(catalogue: Catalogue, made: Made, rounds: int) -> None:
    requests = {name: _requests(made, fields) for name, fields in _kinds().items()}
    times: dict[str, list[float]] = {name: [] for name in requests}
    for number in range(-1, rounds):  # the first round is a warm-up
        for query in range(len(made.queries)):
            for name, bodies in requests.items():
                began = time.thread_time()
                searches = pb.SearchItemsRequest.FromString(bodies[query]).searches
                run_to_end(answers.answer(searches, catalogue, made.manifest.model_version, AnnConfig.max_k))
                if number >= 0:
                    times[name].append((time.thread_time() - began) * 1e6)
    rows: list[list[str]] = []
    for name, own in times.items():
        ratios = [one / other for one, other in zip(own, times[_PLAIN], strict=True)]
        rows.append([name, _quartiles(own, ",.0f"), _quartiles(ratios, ".2f")])
    sizes = f"{made.manifest.item_count:,} items, {made.manifest.dimension} dimensions"
    title = f"{sizes}, k = {K}, recall@100 {made.recall:.3f}, {len(times[_PLAIN]):,} searches of each kind"
    print_table(title, ["search", "CPU µs: median (quartiles)", "x plain"], rows)


def _quartiles(values: Sequence[float], form: str) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:{form}} ({low:{form}} to {high:{form}})"


def _kinds() -> dict[str, dict[str, Any]]:
    """Returns the fields of each kind of search beside embedding and k."""
    brands = [_equals("brand", f"brand-{number}") for number in range(3)]
    one = [pb.Boost(filter=brands[0], weight=0.05)]
    three = [pb.Boost(filter=brand, weight=0.05) for brand in brands]
    limit = pb.GroupLimit(attribute="brand", max_group_size=2)
    facets = [pb.Facet(attribute="brand"), pb.Facet(attribute="tags"), pb.Facet(attribute="year")]
    return {
        _PLAIN: {},
        "plain, k = 200: as many as the candidates": {"k": 200},
        "3 facets": {"facets": facets},
        "at most 2 of a brand": {"diversify": pb.Diversify(group_limits=[limit])},
        "diversity .3": {"diversify": pb.Diversify(diversity=0.3)},
        "diversity .3 of 1,000 candidates": {"diversify": pb.Diversify(diversity=0.3), "candidates_limit": 1000},
        "1 boost": {"boosts": one},
        "3 boosts": {"boosts": three},
        "all of them": {
            "boosts": three,
            "diversify": pb.Diversify(diversity=0.3, group_limits=[limit]),
            "facets": facets,
        },
    }


def _requests(made: Made, fields: dict[str, Any]) -> list[bytes]:
    searches = [
        pb.Search(**{"embedding": pb.Embedding(values=vector.tolist()), "k": K, **fields}) for vector in made.queries
    ]
    version = made.manifest.model_version
    return [pb.SearchItemsRequest(model_version=version, searches=[search]).SerializeToString() for search in searches]


def _equals(attribute: str, value: str) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute=attribute, value=pb.AttributeValue(string_value=value)))


if __name__ == "__main__":
    sys.exit(main())
