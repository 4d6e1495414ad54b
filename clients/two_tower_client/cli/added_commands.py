"""Commands that other packages add, as entry points of the group `two_tower.commands`.

An entry point is a function that takes the arguments after the name of the command and returns the exit code.
"""

import sys
from collections.abc import Sequence
from importlib import metadata

_GROUP = "two_tower.commands"

PACKAGES = {"console": "two-tower-retrieval[console]"}
"""What to install for each command that another package adds."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs a command of another package, and returns its exit code; 1 if the package is not installed.

    Args:
        name: Name of the command, a key of `PACKAGES`.
        arguments: Command line arguments after the name.

    Raises:
        ModuleNotFoundError: The command is installed, and its module needs one that is not.
    """
    # All distributions, because `metadata.entry_points` reads one of each name only: in a checkout, a file of an older
    # build may come first.
    for distribution in metadata.distributions():
        for command in distribution.entry_points.select(group=_GROUP, name=name):
            try:
                main = command.load()
            except ModuleNotFoundError as error:
                # A build without the command's package, such as an image, still names its entry point.
                if error.name is None or not f"{command.module}.".startswith(f"{error.name}."):
                    raise
                continue
            return main(arguments)
    print(
        f"two-tower: the command `{name}` is not installed: pip install '{PACKAGES[name]}'",
        file=sys.stderr,
    )
    return 1
