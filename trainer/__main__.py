"""The program ``two-tower-trainer``, also run as ``python -m trainer``."""

from __future__ import annotations

import os
import sys
import traceback

# TensorFlow reads these when it is imported. Its start-up notes would hide our own messages; its oneDNN kernels round
# differently on different machines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from retrieval.bundle.errors import BundleError
from trainer.errors import TrainerError


def main() -> None:
    """Runs the command line. An expected error is shown as one message without a traceback, with exit code 1.

    The other exit codes: 0 done, 130 stopped by Ctrl-C, 141 the reader of stdout has closed it.
    """
    try:
        _run()
    except SystemExit as end:
        _leave_workers(end.code)
        raise
    except Exception:
        traceback.print_exc()
        _leave_workers(1)
        sys.exit(1)


def _leave_workers(code: str | int | None) -> None:
    from trainer.cli.training_workers import leave_workers

    leave_workers(code)


def _run() -> None:
    try:
        try:
            from trainer.cli.commands import app  # takes seconds, in which Ctrl-C is no traceback either

            app()
        finally:  # the command line ends by SystemExit
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it at its end
        sys.exit(141)  # as a program that the signal SIGPIPE ends
    except (TrainerError, BundleError) as error:
        from trainer.cli.console import fail

        fail(str(error))
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # not sys.exit, which would wait for a download that hangs


if __name__ == "__main__":
    main()
