"""The options of searches on the command line."""

import argparse
from collections.abc import Sequence


def add_search(parser: argparse.ArgumentParser, rankings: Sequence[str]) -> None:
    """Adds all options of a search, and of its result.

    Args:
        parser: Parser of the command.
        rankings: Rankings that the command has.
    """
    add_result(parser)
    parser.add_argument(
        "--ranking", choices=rankings, default="embedding", help="what orders the items (default: %(default)s)"
    )
    parser.add_argument("--text", default="", help="query text, for ranking lexical or fused")
    parser.add_argument(
        "--fusion-constant",
        type=int,
        default=0,
        metavar="N",
        help="constant of ranking fused: the larger, the less the first ranks outweigh later ones (default: 60)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="SCORE",
        help="smallest score of an item, in the unit of the printed scores (default: no limit)",
    )
    parser.add_argument("--exact", action="store_true", help="scan every item instead of using the index")
    parser.add_argument(
        "--search-budget",
        type=int,
        default=0,
        metavar="N",
        help="effort of the index, in the unit of its kind (default: the budget measured by the publisher)",
    )


def add_result(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what a search returns, whatever ranks the items."""
    parser.add_argument("--k", type=int, default=10, help="number of items (default: 10)")
    parser.add_argument(
        "--attribute", action="append", default=[], metavar="NAME", help="item attribute to print; repeatable"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="ids of items to leave out, separated by spaces or commas; an id that holds commas is recognised",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="name=value, name!=value, name>=number or name<=number; repeatable, all conditions have to hold",
    )
    _add_candidates(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_candidates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boost",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONDITION", "WEIGHT"),
        help="add a weight, which may be negative, to the score of items that meet a condition of --where; repeatable",
    )
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="weight of diversity against relevance, 0 to 1 (default: 0)",
    )
    parser.add_argument(
        "--at-most",
        action="append",
        default=[],
        metavar="NAME=COUNT",
        help="largest number of items with the same value of an attribute; repeatable",
    )
    parser.add_argument(
        "--facet", action="append", default=[], metavar="NAME", help="count the values of an attribute; repeatable"
    )
    parser.add_argument(
        "--candidates-limit",
        type=int,
        default=0,
        metavar="N",
        help="number of candidates of the four options above (default: 100 or twice k, whichever is more)",
    )
