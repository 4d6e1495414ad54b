"""`make fleet`: three replicas of each service on hosts of their own, two clients, and the faults of a fleet.

Prints a line for each step and a table of promises, and exits with 1 if one is broken, with 2 if it could not run.
``--short`` takes 3 minutes instead of 30.

The hosts are Linux network namespaces, which only root can make. Without them they are addresses of the loopback
device. Then no link is cut or slowed, and the clients have a list of addresses in place of a name.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from testbed.services import PairError
from tests.system.fleet.deployment import HOSTS, Deployment
from tests.system.fleet.network import Loopback, Namespaces, why_no_namespaces
from tests.system.fleet.report import Row, to_json, to_table
from tests.system.fleet.scenario import FULL, SHORT, Scale, Scenario
from tests.system.fleet.world import write_bundles

_LOCK = "\0two-tower-fleet"
"""Name of a socket that one process of a machine can have, without a file, until the process ends."""

_RETIRE_AFTER_S = 5.0
"""Grace period of a retiring bundle, in seconds; longer than any deadline of the clients."""


def main() -> int:
    """Runs a fleet with the command line's arguments, prints its table, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.system.fleet", description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 minutes, for CI")
    parser.add_argument("--minutes", type=float, help="length of the run, at least one of each fault (default: 30)")
    parser.add_argument("--loopback", action="store_true", help="use loopback addresses in any case")
    parser.add_argument("--json", type=Path, help="file to write the table to, as JSON")
    arguments = parser.parse_args()
    scale = SHORT if arguments.short else FULL
    if arguments.minutes is not None:
        scale = replace(scale, duration_s=60 * arguments.minutes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(_LOCK)
        except OSError:
            print("fleet: another one runs on this machine; its hosts have the same addresses", file=sys.stderr)
            return 2
        try:
            rows = run(scale, arguments.loopback)
        except (OSError, PairError) as error:
            print(f"fleet: {error}", file=sys.stderr)
            return 2
    print(f"\n{to_table(rows)}")
    if arguments.json:
        arguments.json.write_text(f"{json.dumps(to_json(rows), indent=2)}\n")
    return 1 if any(row.is_kept is False for row in rows) else 0


def run(scale: Scale, loopback: bool) -> list[Row]:
    """Runs a fleet, and returns the rows of its table.

    Args:
        scale: size of the run.
        loopback: whether to use loopback addresses although there are network namespaces.

    Raises:
        OSError: the network could not be made.
        PairError: a replica did not start, or did not reach an expected state in time.
    """
    missing = "--loopback" if loopback else why_no_namespaces()
    if missing:
        print(f"no network namespaces ({missing}): hosts are loopback addresses, no link is cut or slowed")
    with tempfile.TemporaryDirectory(prefix="two-tower-fleet-") as temporary:
        folder = Path(temporary)
        store = FolderStore(folder / "store")
        versions = write_bundles(store)
        with (
            Loopback() if missing else Namespaces(HOSTS) as network,
            Deployment(network, store, folder, {"retire-after-s": str(_RETIRE_AFTER_S)}) as deployment,
        ):
            return Scenario(deployment, versions, scale).run()


if __name__ == "__main__":
    sys.exit(main())
