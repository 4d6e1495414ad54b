"""Runs the command line: `python -m two_tower_client`, or `two-tower`."""

import sys

from two_tower_client.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
