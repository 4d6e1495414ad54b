"""A client of a fleet in a process of its own: a paced closed loop that judges every answer.

Prints one line of JSON each second with what has ended since the line before, until its standard input is closed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import threading
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from testbed.load import Load
from testbed.offline import OfflineBundle
from tests.system.fleet.world import make_queries
from two_tower_client import Retriever, Tls
from two_tower_client.rpc.options import ConnectionOptions

TIMEOUT_S = 4.0
"""Time that a request may take, in seconds: more than the default of the client, 1, for machines with other work."""

_QUERIES = 50
_LINE_S = 1.0


def main() -> int:
    """Sends requests with the command line's arguments, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="bundles, to judge the answers")
    parser.add_argument("--query-tower", required=True, help="address, or several")
    parser.add_argument("--ann", required=True, help="address, or several")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--server-name", help="name in the certificate, where the addresses have none")
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rate", type=float, required=True, help="requests a second at most")
    arguments = parser.parse_args()
    store, queries = FolderStore(arguments.store), make_queries(_QUERIES)
    offline = functools.cache(lambda version: OfflineBundle(store, version, queries))
    for version in store.versions():
        offline(version)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    tls = Tls(ca_file=arguments.certificate, server_name=arguments.server_name)
    options: ConnectionOptions = {"tls": tls, "token_file": arguments.token_file, "timeout_s": TIMEOUT_S}
    with (
        Retriever(arguments.query_tower, arguments.ann, **options) as retriever,
        Load(retriever, queries, offline, clients=arguments.threads, rate=arguments.rate) as load,
    ):
        known = 0
        while True:
            is_last = ended.wait(_LINE_S)
            tally = load.tally
            new = tally.latencies[known:]
            known += len(new)
            line = {"sent": tally.sent, "mixed": tally.mixed, "failures": dict(tally.failures), "latencies": new}
            print(json.dumps({**line, "bundles": dict(tally.bundles)}), flush=True)
            if is_last:
                return 0


if __name__ == "__main__":
    sys.exit(main())
