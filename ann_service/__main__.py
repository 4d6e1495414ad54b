"""The command ``two-tower-ann --store DIR``, also run as ``python -m ann_service --store DIR``."""

from __future__ import annotations

import sys

from ann_service.app import assemble
from ann_service.config import AnnConfig
from retrieval.serving.process.program import run_program

_HELP = """Serves the items of the live bundle: embeddings in, nearest items out.

It waits for a first bundle, follows every promotion and roll back without a restart, and keeps the previous live bundle
open. Each setting is a flag, a variable such as ANN_SERVICE_PORT, or a line in the file of --config.

Example: python -m ann_service --store /var/lib/two-tower --port 50052
"""


def main() -> int:
    """Runs the service with the arguments of the command line.

    Returns:
        Exit code; see `retrieval.serving.process.program`.
    """
    return run_program("ann_service", _HELP, AnnConfig, assemble, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
