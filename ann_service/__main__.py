"""``python -m ann_service --store DIR``."""

from __future__ import annotations

import sys

from ann_service.app import assemble
from ann_service.config import AnnConfig
from retrieval.serving.process.program import run_program

_HELP = """Serves the items of the live bundle: embeddings in, nearest items out.

It waits for a first bundle, follows every promotion and roll back without a restart, and keeps the bundle before the
live one open. Each setting is a flag, a variable such as ANN_SERVICE_PORT, or a line in the file of
--config.

Example: python -m ann_service --store /var/lib/two-tower --port 50052
"""

if __name__ == "__main__":
    sys.exit(run_program("ann_service", _HELP, AnnConfig, assemble, sys.argv[1:]))
