"""The commands and options of the command line."""

import argparse
import math
import os
from importlib import metadata

from two_tower_client import ann, query_tower
from two_tower_client.cli import commands, live_features, search_options

_DESCRIPTION = """Retrieves items from a two-tower system, and shows the status of its replicas.

  two-tower status   --query-tower localhost:50051 --ann localhost:50052
  two-tower retrieve --feature age=24 --feature history=50,181 --k 10 --attribute title
  two-tower retrieve --ranking lexical --text 'usb fan' --attribute title
  two-tower similar  --item 50 --k 5 --where genres=Comedy --where 'year>=1990'
  two-tower popular  --k 10 --attribute title
  two-tower retrieve --feature age=24 --diversity 0.3 --at-most genres=3 --boost 'year>=1997' 0.05 --facet genres
  two-tower retrieve --user-id 42 --exclude-history --k 10
  two-tower wait     --for 20261124T031645Z-3f9a1c --quorum 2
  two-tower compare  --from previous --to live --queries queries.jsonl --title title
  two-tower console  --store store
"""

_EPILOG = """environment variables, used if the option is not given:
  TWO_TOWER_QUERY_TOWER  addresses of the query tower service, separated by commas (default: localhost:50051)
  TWO_TOWER_ANN          addresses of the ANN service, separated by commas (default: localhost:50052)
  TWO_TOWER_TOKEN_FILE   file with the bearer token

exit codes: 0 success, 1 failure or an unhealthy system, 2 wrong usage, 130 interrupted, 141 nobody reads the output
"""

_RETRIEVE = """Prints the best items for a query.

  two-tower retrieve --feature age=24 --feature history=50,181 --k 10 --attribute title

`two-tower status` shows whether the services are up. The model determines the features; the error message for an
unknown feature lists them. Separate the values of a list by commas, or repeat the option for each value.

If the bundle has a lexical index, a text can rank the items: alone, without the query tower, or fused with the
embedding.

  two-tower retrieve --ranking lexical --text 'usb fan' --attribute title
  two-tower retrieve --ranking fused --text 'usb fan' --feature query='usb fan' --attribute title

With `--fallback popular`, the most popular items are printed if the query tower cannot answer, and the reason.

The status of the services tells the types of the values of `--feature`, and of `name=value` in `--where` and `--boost`.
Where tokens are required, such a call needs the scopes read and admin; any other needs read alone.
"""

_SIMILAR = """Prints the items nearest to an item, or to the mean of several items.

  two-tower similar --item 50 --item 181 --k 5 --attribute title

With a token, a condition `name=value` needs the scopes read and admin: the status of the service tells its type.
"""

_POPULAR = """Prints the most popular items of the live bundle: those with the most training events.

  two-tower popular --k 10 --attribute title --where genres=Comedy

With a token, a condition `name=value` needs the scopes read and admin: the status of the service tells its type.
"""

_STATUS = """Prints the status of every replica.

  two-tower status --query-tower 10.0.0.1:50051,10.0.0.2:50051 --ann 10.0.0.3:50052 --watch 2

Returns 0 if all replicas answer, none has refused a bundle or is loading one, all agree on the live model, and the ANN
replicas answer from the live bundle. Returns 1 otherwise.
"""

_WAIT = """Waits until the replicas have loaded a published bundle.

  two-tower wait --for 20261124T031645Z-3f9a1c --quorum all --timeout-s 60
  two-tower wait --for live --query-tower dns:///query-tower:50051 --ann dns:///ann:50052

A name after dns:/// stands for the replica at each of its IP addresses, and is looked up again and again. A loaded
bundle can answer at once when it becomes live. "live" is the bundle that the stores name as live: the replicas have to
answer from it. Returns 0 as soon as they do. Returns 1 after the timeout, or as soon as too many have refused it.
"""

_COMPARE = """Replays recorded queries against two open bundles, and prints how far their results differ.

  python -m query_tower_service --query-log queries.jsonl ...
  two-tower compare --from previous --to live --queries queries.jsonl --title title

Name a bundle by its version, or as `live` or `previous`: the first and the second open bundle of the ANN replica.
Each line of the file is one query, such as {"features": {"age": [24.0], "history": ["50", "181"]}}.
"""


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser. Environment variables give the defaults of the addresses and the token file."""
    parser = _formatted(argparse.ArgumentParser(prog="two-tower"), _DESCRIPTION, _EPILOG)
    parser.add_argument("--version", action="version", version=f"two-tower {_version()}")
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    retrieve = _formatted(subcommands.add_parser("retrieve", help="print the best items for a query"), _RETRIEVE)
    retrieve.set_defaults(run=commands.retrieve)
    retrieve.add_argument(
        "--feature", action="append", default=[], metavar="NAME=VALUE", help="a feature of the query; repeatable"
    )
    retrieve.add_argument("--user-id", default="", metavar="ID", help="user whose stored features are added")
    retrieve.add_argument("--exclude-history", action="store_true", help="leave out the items of the history")
    retrieve.add_argument("--fallback", choices=("popular",), help="what to print if the query tower cannot answer")
    search_options.add_search(retrieve, rankings=("embedding", "lexical", "fused"))
    _add_connection(retrieve, timeout_s=5.0)

    similar = _formatted(subcommands.add_parser("similar", help="print the items nearest to an item"), _SIMILAR)
    similar.set_defaults(run=commands.similar)
    similar.add_argument("--item", action="append", required=True, metavar="ID", help="id of an item; repeatable")
    search_options.add_search(similar, rankings=("embedding", "fused"))
    _add_connection(similar, timeout_s=5.0, with_query_tower=False)

    popular = _formatted(subcommands.add_parser("popular", help="print the most popular items"), _POPULAR)
    popular.set_defaults(run=commands.popular)
    search_options.add_result(popular)
    _add_connection(popular, timeout_s=5.0, with_query_tower=False)

    status = _formatted(subcommands.add_parser("status", help="print the status of every replica"), _STATUS)
    status.set_defaults(run=commands.status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="repeat after so many seconds (default: 2)",
    )
    _add_connection(status, timeout_s=5.0)

    wait = _formatted(subcommands.add_parser("wait", help="wait until a bundle is loaded"), _WAIT)
    wait.set_defaults(run=commands.wait)
    wait.add_argument(
        "--for", dest="bundle_version", required=True, metavar="BUNDLE_VERSION", help="version of the bundle, or live"
    )
    wait.add_argument(
        "--quorum",
        type=_quorum,
        default=None,
        metavar="N|all",
        help="number of replicas of each service that have to load it (default: all)",
    )
    wait.add_argument(
        "--every-s", type=_seconds, default=0.5, help="seconds between two status requests (default: 0.5)"
    )
    _add_connection(wait, timeout_s=60.0, timeout_of="the whole wait")

    compare = _formatted(subcommands.add_parser("compare", help="compare two bundles by recorded queries"), _COMPARE)
    compare.set_defaults(run=commands.compare)
    compare.add_argument(
        "--from", dest="old", required=True, metavar="OLD", help="old bundle: version, live or previous"
    )
    compare.add_argument("--to", dest="new", required=True, metavar="NEW", help="new bundle: version, live or previous")
    compare.add_argument(
        "--queries", required=True, metavar="FILE", help="file of recorded queries, one JSON object per line"
    )
    compare.add_argument("--k", type=int, default=100, help="number of items per query (default: 100)")
    compare.add_argument(
        "--limit", type=_count, default=1000, metavar="N", help="replay only the last N queries (default: 1000)"
    )
    compare.add_argument("--title", default="", metavar="ATTRIBUTE", help="item attribute to show in the examples")
    compare.add_argument("--json", action="store_true", help="print JSON")
    _add_connection(compare, timeout_s=30.0)

    record, forget = live_features.add_commands(
        lambda name, line, description: _formatted(subcommands.add_parser(name, help=line), description),
        lambda each: _add_connection(each, timeout_s=5.0, with_ann=False),
    )
    record.set_defaults(run=commands.record_events)
    forget.set_defaults(run=commands.forget_user)

    # Its own package reads its options: `two_tower_client.cli.added_commands`.
    subcommands.add_parser("console", help="serve a page that shows store, fleet, recommendations and live figures")
    return parser


def _formatted(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, epilog
    # The default formatter would join the lines of the examples.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_connection(
    parser: argparse.ArgumentParser,
    *,
    timeout_s: float,
    timeout_of: str = "each call",
    with_query_tower: bool = True,
    with_ann: bool = True,
) -> None:
    group = parser.add_argument_group("connection")
    if with_query_tower:
        group.add_argument(
            "--query-tower",
            default=os.environ.get("TWO_TOWER_QUERY_TOWER") or query_tower.DEFAULT_ADDRESS,
            metavar="ADDR[,ADDR...]",
            help="addresses of the query tower service (default: %(default)s)",
        )
    else:  # so that one set of options does for all commands
        group.add_argument("--query-tower", metavar="ADDR[,ADDR...]", help="not used by this command, which says so")
    if with_ann:
        group.add_argument(
            "--ann",
            default=os.environ.get("TWO_TOWER_ANN") or ann.DEFAULT_ADDRESS,
            metavar="ADDR[,ADDR...]",
            help="addresses of the ANN service (default: %(default)s)",
        )
    group.add_argument(
        "--timeout-s",
        type=_seconds,
        default=timeout_s,
        metavar="SECONDS",
        help=f"timeout of {timeout_of}, in seconds (default: %(default)g)",
    )
    group.add_argument(
        "--token-file",
        default=os.environ.get("TWO_TOWER_TOKEN_FILE") or None,
        metavar="FILE",
        help="file with the bearer token",
    )
    group.add_argument("--tls", action="store_true", help="use TLS; implied by the options below")
    group.add_argument(
        "--ca-file", metavar="FILE", help="certificate authorities to trust, PEM (default: those that gRPC ships)"
    )
    group.add_argument("--cert-file", metavar="FILE", help="client certificate, PEM")
    group.add_argument("--key-file", metavar="FILE", help="private key of the client certificate, PEM")
    group.add_argument(
        "--server-name",
        metavar="NAME",
        help="host name in the certificate of the service (default: the host of the address)",
    )


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
        raise argparse.ArgumentTypeError(f"has to be a whole number of at least 1, or 'all', got {text}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"has to be a whole number of at least 1, got {text}")
    return int(text)


def _version() -> str:
    try:
        return metadata.version("two-tower-client")
    except metadata.PackageNotFoundError:  # run from a checkout, without an installed distribution
        return "(version unknown: two-tower-client is not installed)"
