"""The entry point of the command line."""

import os
import sys
from collections.abc import Sequence

from two_tower_client.cli import added_commands
from two_tower_client.cli.escaping import to_line
from two_tower_client.cli.parser import make_parser
from two_tower_client.errors import InvalidRequest, TwoTowerError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1, 2, 130 or 141, as `two-tower --help` explains.

    Args:
        argv: Command line arguments. Default: the arguments of the process.

    Raises:
        SystemExit: With code 2 if the arguments cannot be parsed, 0 after `--help` and `--version`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in added_commands.PACKAGES:
        return added_commands.run(words[0], words[1:])
    arguments = make_parser().parse_args(words)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it at its end
        return 141  # as a program that the signal SIGPIPE ends; never 0, as `status` might have reported a fault
    except TwoTowerError as error:
        print(f"two-tower: {to_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130
