"""`make attack`: attacks running services, and prints a table of promise, figure, limit and verdict.

The command line is in `benchmarks.attack.command`. It is imported late, because the processes of the load generators
import this module, and need little of the project.
"""

import sys

if __name__ == "__main__":
    from benchmarks.attack.command import main

    sys.exit(main())
