"""Fills a collection of Weaviate with vectors, or sets its search budget. Runs in the environment of Weaviate's client.

```console
$ python -m benchmarks.services.weaviate.collection fill --vectors FILE --dimension 64 --connections 16
$ python -m benchmarks.services.weaviate.collection ef 100
```
"""

from __future__ import annotations

import argparse
import sys
import uuid

from weaviate.classes.config import Configure, Reconfigure, VectorDistances
from weaviate.classes.data import DataObject

from benchmarks.services.weaviate.caller import COLLECTION, open_client, read_vectors

_INSERTED_AT_ONCE = 1000


def main() -> int:
    """Runs the command of the command line, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.weaviate.collection")
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    fill = commands.add_parser("fill", help="make the collection, and insert all vectors")
    fill.add_argument("--vectors", required=True, help="file of [n, dimension] float32")
    fill.add_argument("--dimension", type=int, required=True)
    fill.add_argument("--connections", type=int, required=True, help="maxConnections of the graph")
    budget = commands.add_parser("ef", help="set the number of candidates that a search keeps")
    budget.add_argument("ef", type=int)
    arguments = parser.parse_args()
    with open_client(arguments.http_port, arguments.grpc_port) as client:
        if arguments.command == "ef":
            index = Reconfigure.VectorIndex.hnsw(ef=arguments.ef)
            client.collections.use(COLLECTION).config.update(
                vector_config=Reconfigure.Vectors.update(vector_index_config=index)
            )
            return 0
        index = Configure.VectorIndex.hnsw(
            distance_metric=VectorDistances.DOT, max_connections=arguments.connections, ef_construction=128, ef=100
        )
        collection = client.collections.create(
            COLLECTION, vector_config=Configure.Vectors.self_provided(vector_index_config=index)
        )
        vectors = read_vectors(arguments.vectors, arguments.dimension)
        for start in range(0, len(vectors), _INSERTED_AT_ONCE):
            objects = [
                DataObject(uuid=uuid.UUID(int=row), properties={}, vector=vector)
                for row, vector in enumerate(vectors[start : start + _INSERTED_AT_ONCE], start)
            ]
            answer = collection.data.insert_many(objects)
            if answer.has_errors:
                raise RuntimeError(f"Weaviate refused vectors: {next(iter(answer.errors.values())).message}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
