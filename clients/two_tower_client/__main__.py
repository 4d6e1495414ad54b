"""The command line: `two-tower`, or `python -m two_tower_client`."""

import argparse
import math
import os
import sys
from collections.abc import Sequence

from two_tower_client import ann, query_tower
from two_tower_client.cli import commands
from two_tower_client.errors import InvalidRequest, TwoTowerError

_DESCRIPTION = """Retrieves items from a two-tower system, and shows what its replicas serve.

  two-tower status   --query-tower localhost:50051 --ann localhost:50052
  two-tower retrieve --feature age=24 --feature history=50,181 --k 10 --attribute title
  two-tower retrieve --ranking lexical --text 'usb fan' --attribute title
  two-tower similar  --item 50 --k 5 --where genres=Comedy --where 'year>=1990'
  two-tower wait     --for 20261124T031645Z-3f9a1c --quorum 2
  two-tower compare  --from previous --to live --queries queries.jsonl --title title
"""

_EPILOG = """environment, where the option is not given:
  TWO_TOWER_QUERY_TOWER  address, or addresses separated by commas (else localhost:50051)
  TWO_TOWER_ANN          the same for the ANN service (else localhost:50052)
  TWO_TOWER_TOKEN_FILE   file that holds the bearer token

exit codes: 0 done and well, 1 failed or not well, 2 wrong usage, 130 interrupted
"""

_RETRIEVE = """Prints the items nearest to a query.

  two-tower retrieve --feature age=24 --feature history=50,181 --k 10 --attribute title

`two-tower status` tells whether the services are up. Which features there are is up to the model: name an unknown one
and the message lists them. The values of a list are separated by commas; repeat the option to give them one by one.

Where the bundle has a lexical index, a text ranks too: alone, without the query tower, or fused with the embedding.

  two-tower retrieve --ranking lexical --text 'usb fan' --attribute title
  two-tower retrieve --ranking fused --text 'usb fan' --feature query='usb fan' --attribute title
"""

_SIMILAR = """Prints the items nearest to one item, or to the mean of several.

  two-tower similar --item 50 --item 181 --k 5 --attribute title
"""

_STATUS = """Asks every replica by itself what it serves.

  two-tower status --query-tower 10.0.0.1:50051,10.0.0.2:50051 --ann 10.0.0.3:50052 --watch 2

Returns 0 if all answer, none has refused a bundle or is still loading one, all agree on the live model, and those of
the ANN service answer from the live bundle; else 1.
"""

_WAIT = """Waits until replicas have loaded a bundle: publish, wait, then go on.

  two-tower wait --for 20261124T031645Z-3f9a1c --quorum all --timeout-s 60

Returns 0 once they have, and 1 after the timeout or as soon as too many have refused the bundle.
"""

_COMPARE = """Replays recorded queries against two bundles that are open, and shows how far their answers differ.

  python -m query_tower_service --query-log queries.jsonl ...
  two-tower compare --from previous --to live --queries queries.jsonl --title title

A bundle is named by its version, or as `live` or `previous`: the first and the second that the ANN replica has open.
The file holds one query a line, such as {"features": {"age": [24.0], "history": ["50", "181"]}}.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser; the environment gives the defaults of the addresses and the token file."""
    parser = _formatted(argparse.ArgumentParser(prog="two-tower"), _DESCRIPTION, _EPILOG)
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    retrieve = _formatted(kinds.add_parser("retrieve", help="items for a user"), _RETRIEVE)
    retrieve.set_defaults(run=commands.retrieve)
    retrieve.add_argument(
        "--feature", action="append", default=[], metavar="NAME=VALUE", help="a feature of the query; repeatable"
    )
    _add_search(retrieve, rankings=("embedding", "lexical", "fused"))
    _add_connection(retrieve, timeout_s=5.0)

    similar = _formatted(kinds.add_parser("similar", help="items like an item"), _SIMILAR)
    similar.set_defaults(run=commands.similar)
    similar.add_argument("--item", action="append", required=True, metavar="ID", help="to be similar to; repeatable")
    _add_search(similar, rankings=("embedding", "fused"))
    _add_connection(similar, timeout_s=5.0, with_query_tower=False)

    status = _formatted(kinds.add_parser("status", help="what each replica serves"), _STATUS)
    status.set_defaults(run=commands.status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument(
        "--watch", type=_seconds, nargs="?", const=2.0, metavar="SECONDS", help="ask again and again (default: every 2)"
    )
    _add_connection(status, timeout_s=5.0)

    wait = _formatted(kinds.add_parser("wait", help="until a bundle is loaded"), _WAIT)
    wait.set_defaults(run=commands.wait)
    wait.add_argument("--for", dest="bundle_version", required=True, metavar="BUNDLE_VERSION", help="what to wait for")
    wait.add_argument(
        "--quorum", type=_quorum, default=None, metavar="N|all", help="replicas of each service (default: all)"
    )
    wait.add_argument("--every-s", type=_seconds, default=0.5, help="seconds between two looks (default: 0.5)")
    _add_connection(wait, timeout_s=60.0)

    compare = _formatted(kinds.add_parser("compare", help="two bundles by recorded queries"), _COMPARE)
    compare.set_defaults(run=commands.compare)
    compare.add_argument("--from", dest="old", required=True, metavar="OLD", help="version, live or previous")
    compare.add_argument("--to", dest="new", required=True, metavar="NEW", help="the same")
    compare.add_argument("--queries", required=True, metavar="FILE", help="recorded queries, JSON lines")
    compare.add_argument("--k", type=int, default=100, help="how many items to ask for (default: 100)")
    compare.add_argument(
        "--limit", type=_count, default=1000, metavar="N", help="at most the last N queries (default: 1000)"
    )
    compare.add_argument("--title", default="", metavar="ATTRIBUTE", help="item attribute to show in the examples")
    compare.add_argument("--json", action="store_true", help="print JSON")
    _add_connection(compare, timeout_s=30.0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        argv: The arguments. Default: those of the process.
    """
    arguments = make_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except InvalidRequest as error:
        print(f"two-tower: {error.message}", file=sys.stderr)
        return 2
    except TwoTowerError as error:
        print(f"two-tower: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _formatted(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, epilog
    # The default formatter would run the examples together.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_search(parser: argparse.ArgumentParser, rankings: Sequence[str]) -> None:
    parser.add_argument("--k", type=int, default=10, help="how many items (default: 10)")
    parser.add_argument(
        "--ranking", choices=rankings, default="embedding", help="what orders them (default: %(default)s)"
    )
    parser.add_argument("--text", default="", help="what was typed, where it ranks: lexical or fused")
    parser.add_argument(
        "--fusion-constant",
        type=int,
        default=0,
        metavar="N",
        help="of fused: added to each rank, so that a larger one weighs the first places less (default: 60)",
    )
    parser.add_argument(
        "--attribute", action="append", default=[], metavar="NAME", help="print this item attribute too; repeatable"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="items to leave out, separated by spaces",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="name=value, name!=value, name>=number or name<=number; repeatable, and all have to hold",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="SCORE",
        help="only items with this score or more, in the unit of the scores printed",
    )
    parser.add_argument("--exact", action="store_true", help="scan every item instead of the index")
    parser.add_argument(
        "--search-budget",
        type=int,
        default=0,
        metavar="N",
        help="what the index may inspect, in the unit of its kind (default: as published)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_connection(parser: argparse.ArgumentParser, *, timeout_s: float, with_query_tower: bool = True) -> None:
    group = parser.add_argument_group("connection")
    if with_query_tower:
        group.add_argument(
            "--query-tower",
            default=os.environ.get("TWO_TOWER_QUERY_TOWER") or query_tower.DEFAULT_ADDRESS,
            metavar="ADDR[,ADDR...]",
            help="query tower service (default: %(default)s)",
        )
    group.add_argument(
        "--ann",
        default=os.environ.get("TWO_TOWER_ANN") or ann.DEFAULT_ADDRESS,
        metavar="ADDR[,ADDR...]",
        help="ANN service (default: %(default)s)",
    )
    group.add_argument(
        "--timeout-s", type=_seconds, default=timeout_s, help="seconds that it may take (default: %(default)g)"
    )
    group.add_argument(
        "--token-file",
        default=os.environ.get("TWO_TOWER_TOKEN_FILE") or None,
        metavar="FILE",
        help="file that holds the bearer token",
    )
    group.add_argument("--tls", action="store_true", help="secure the connection; implied by the options below")
    group.add_argument("--ca-file", metavar="FILE", help="authorities to trust, PEM (default: those of gRPC)")
    group.add_argument("--cert-file", metavar="FILE", help="certificate of this client, PEM")
    group.add_argument("--key-file", metavar="FILE", help="key of that certificate, PEM")
    group.add_argument("--server-name", metavar="NAME", help="name in the service's certificate, if not its host")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"has to be a positive number of seconds, got {text}")
    return seconds


def _quorum(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"has to be a number from 1 on, or 'all', got {text}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"has to be a number from 1 on, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
