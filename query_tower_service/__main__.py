"""The command ``two-tower-query-tower --store DIR``, also run as ``python -m query_tower_service --store DIR``."""

from __future__ import annotations

import sys

from query_tower_service.app import assemble
from query_tower_service.config import QueryTowerConfig
from retrieval.serving.process.program import run_program

_HELP = """Serves the query tower of the live bundle: user features in, embeddings out.

It waits for a first bundle, follows every promotion and roll back without a restart, and keeps the previous live bundle
open. Each setting is a flag, a variable such as QUERY_TOWER_SERVICE_PORT, or a line in the file of --config.

Example: python -m query_tower_service --store /var/lib/two-tower --port 50051
"""


def main() -> int:
    """Runs the service with the arguments of the command line.

    Returns:
        Exit code; see `retrieval.serving.process.program`.
    """
    return run_program("query_tower_service", _HELP, QueryTowerConfig, assemble, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
