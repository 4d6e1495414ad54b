"""Runs the console: `python -m console`, or `two-tower console`."""

import sys

from console.command import main

if __name__ == "__main__":
    sys.exit(main())
