"""``python -m trainer``: train, evaluate and publish two towers; promote, roll back and prune bundles."""

from __future__ import annotations

import os
import sys

# TensorFlow reads these when it is imported. Its start-up notes would drown what a person should read; its oneDNN
# kernels round differently from one machine to the next.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from retrieval.bundle.errors import BundleError
from trainer.cli.commands import app
from trainer.cli.console import fail
from trainer.errors import TrainerError


def main() -> None:
    """Runs the command line; an error that a person can mend is one message and exit code 1."""
    try:
        app()
    except (TrainerError, BundleError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
