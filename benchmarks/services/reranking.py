"""Cost of boosts, diversity, group limits and facets in a search, beside the search without them.

```console
$ python -m benchmarks.services.reranking --store STORE
```

One ANN service on one core answers single searches with k = 100 over clustered synthetic items with a brand, tags and
a year. All kinds of search run in turns, from one caller; ratios are computed within each round. Median of the rounds,
and their range. CPU time is that of the service's process; the time of a call includes gRPC and the client.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.services.calls import SEARCH
from benchmarks.services.load import Target, one_core
from benchmarks.timing import print_table, spread
from retrieval.store.folder_store import FolderStore
from testbed.indexed_bundles import K, Made, make_of
from testbed.movielens import train
from testbed.services import Replica
from testbed.synthetic_bundles import copy_live
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
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (default: 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round in seconds (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-tower-reranking-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        if arguments.store is None:
            base = train(folder, store, 1, seed=1, force=True)
        else:
            base = copy_live(FolderStore(arguments.store), store)
        data = make_data(arguments.items, dimension=store.manifest(base).dimension)
        settings = Index(trees=(_TREES,), min_recall_at_100=_RECALL)
        made = make_of(store, base, data, settings, attributes=make_attributes(arguments.items))
        replica = Replica("ann_service", store.root, folder / "service", {"drain-delay-s": "0"})
        with one_core():
            replica.start()
        try:
            replica.wait_until_serving()
            _measure(replica, made, arguments.rounds, arguments.seconds)
        finally:
            replica.stop()
    return 0


def _measure(replica: Replica, made: Made, rounds: int, seconds: float) -> None:
    assert replica.process is not None
    pid = replica.process.pid
    targets = {
        name: Target(replica.address, SEARCH, _requests(made, fields), pid, callers=1)
        for name, fields in _kinds().items()
    }
    for _ in range(rounds):
        for target in targets.values():
            target.measure(seconds)
    plain = targets[_PLAIN].series
    rows: list[list[str]] = []
    for name, target in targets.items():
        target.close()
        own = target.series
        slower = [one / other for one, other in zip(plain.rate, own.rate, strict=True)]
        times = [1000 / rate for rate in own.rate]
        rows.append([name, own.show(), own.times((1.0, plain)), spread(times, ".2f"), spread(slower, ".2f")])
    sizes = f"{made.manifest.item_count:,} items, {made.manifest.dimension} dimensions"
    title = f"{sizes}, k = {K}, recall@100 {made.recall:.3f}"
    head = ["search", "server CPU a call, µs", "x plain", "ms a call", "x plain"]
    print_table(title, head, rows)


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
