"""The commands of the command line. Each returns its exit code."""

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.ann import AnnClient
from two_tower_client.cli import comparison, live_features, tables
from two_tower_client.cli.arguments import parse_boosts, parse_condition, parse_diversify, parse_features
from two_tower_client.cli.escaping import escape, to_line
from two_tower_client.cli.recording import read_queries
from two_tower_client.cli.replica_addresses import NamedFleet, has_name
from two_tower_client.cli.unknown_values import (
    find_unknown_features,
    find_unknown_items,
    find_unmatched,
    split_at_commas,
)
from two_tower_client.errors import InvalidRequest, NoBundle, PermissionDenied
from two_tower_client.features import FeatureValue
from two_tower_client.filters import Filter, all_of
from two_tower_client.fleet import Replica, find_faults, find_live, find_ready
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.reranking import RerankingOptions
from two_tower_client.results import Retrieval
from two_tower_client.retrieve_request import FALLBACK_ERRORS, as_fallback, popular_search
from two_tower_client.retriever import Retriever
from two_tower_client.rpc.channel import Tls
from two_tower_client.rpc.options import ConnectionOptions
from two_tower_client.search import Search, SearchOptions


def retrieve(arguments: argparse.Namespace) -> int:
    """Prints the best items for the features, for the text, or for both."""
    with Retriever(arguments.query_tower, arguments.ann, **_connection(arguments)) as retriever:
        options = _options(arguments, retriever.ann)
        try:
            tower, features = _features(arguments, retriever.query_tower)
        except FALLBACK_ERRORS as error:
            if not arguments.fallback:
                raise
            answer = retriever.ann.search([popular_search(Search(k=arguments.k, text=arguments.text, **options))])
            _print(as_fallback(answer.retrievals[0], error), arguments, options, retriever.ann)
            return 0
        retrieval = retriever.retrieve(
            features,
            arguments.k,
            user_id=arguments.user_id,
            exclude_history=arguments.exclude_history,
            text=arguments.text,
            fallback=arguments.fallback,
            **options,
        )
        unknown = list[str]()
        if retrieval.unknown_values and not arguments.json:
            unknown = find_unknown_features(retriever.query_tower, tower, features, retrieval.model_version)
        _print(retrieval, arguments, options, retriever.ann, unknown)
    return 0


def popular(arguments: argparse.Namespace) -> int:
    """Prints the most popular items of the live bundle."""
    _note_unused_query_tower(arguments, "popular")
    with AnnClient(arguments.ann, **_connection(arguments)) as ann:
        options = _result_options(arguments, ann)
        answer = ann.search([Search(popular=True, k=arguments.k, **options)])
        _print(answer.retrievals[0], arguments, options, ann)
    return 0


def similar(arguments: argparse.Namespace) -> int:
    """Prints the items nearest to one item, or to the mean of several items."""
    _note_unused_query_tower(arguments, "similar")
    with AnnClient(arguments.ann, **_connection(arguments)) as ann:
        options = _options(arguments, ann)
        answer = ann.search([Search(similar_to=arguments.item, text=arguments.text, k=arguments.k, **options)])
        _print(answer.retrievals[0], arguments, options, ann)
    return 0


def record_events(arguments: argparse.Namespace) -> int:
    """Records events; see `two_tower_client.cli.live_features`."""
    return live_features.record_events(arguments, _connection(arguments))


def forget_user(arguments: argparse.Namespace) -> int:
    """Deletes what is stored of a user; see `two_tower_client.cli.live_features`."""
    return live_features.forget_user(arguments, _connection(arguments))


def status(arguments: argparse.Namespace) -> int:
    """Prints the status of each replica. Returns 0 if the system is healthy, else 1."""
    with _fleet(arguments) as fleet:
        while True:
            replicas = fleet.ask()
            faults = find_faults(replicas)
            if arguments.json:
                text = tables.replicas_to_json(replicas, faults)
            else:
                width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
                text = tables.replicas_to_table(replicas, faults, int(time.time() * 1000), width)
            print(escape(text), flush=True)
            if arguments.watch is None:
                return 1 if faults else 0
            time.sleep(arguments.watch)
            print()


def wait(arguments: argparse.Namespace) -> int:
    """Waits until a quorum of replicas of each service can serve a bundle. Returns 0 if they can, else 1.

    Of ``live``, the bundle that the stores name as live, the replicas have to answer already.
    """
    wanted, end_s = arguments.bundle_version, time.monotonic() + arguments.timeout_s
    for service in ("query_tower", "ann"):
        text: str = getattr(arguments, service)
        count = len(text.split(","))
        # How many replicas a name has, the next look-up tells.
        if arguments.quorum is not None and arguments.quorum > count and not has_name(text):
            raise InvalidRequest.in_field("--quorum", f"is {arguments.quorum}, and {service} has {count} address(es)")
    with _fleet(arguments, timeout_s=min(5.0, arguments.timeout_s)) as fleet:
        while True:
            replicas = fleet.ask()
            counts = {service: _count(replicas, service) for service in ("query_tower", "ann")}
            quorums = {service: arguments.quorum or count for service, count in counts.items()}
            if wanted == "live":
                bundle_version, ready = find_live(replicas)
            else:
                bundle_version, ready = wanted, find_ready(replicas, wanted)
            if bundle_version and all(_count(ready, service) >= quorum for service, quorum in quorums.items()):
                print(
                    f"{bundle_version} {'is live at' if wanted == 'live' else 'is loaded by'} {_shares(ready, counts)}"
                )
                return 0
            refused = [replica for replica in replicas if replica not in ready and _refused(replica, bundle_version)]
            refusals = {service: _count(refused, service) for service in counts}
            hopeless = any(refusals[each] and counts[each] - refusals[each] < quorums[each] for each in counts)
            if hopeless or time.monotonic() >= end_s:
                reason = "was refused" if hopeless else f"was not loaded in {arguments.timeout_s:g} s"
                what = bundle_version or "one live bundle of all stores"
                _print_error(f"{what} {reason}; {_shares(ready, counts)} have it; `two-tower status` says more")
                for fault in find_faults(replicas):
                    _print_error(fault)
                return 1
            time.sleep(min(arguments.every_s, max(0.0, end_s - time.monotonic())))


def compare(arguments: argparse.Namespace) -> int:
    """Replays recorded queries against two open bundles, and prints how far their results differ."""
    queries = read_queries(arguments.queries, arguments.limit)
    connection = _connection(arguments)
    with (
        QueryTowerClient(arguments.query_tower, **connection) as query_tower,
        AnnClient(arguments.ann, **connection) as ann,
    ):
        result = comparison.compare(
            query_tower, ann, arguments.old, arguments.new, queries, k=arguments.k, title=arguments.title
        )
    print(escape(tables.comparison_to_json(result) if arguments.json else tables.comparison_to_table(result)))
    return 0


def _features(
    arguments: argparse.Namespace, client: QueryTowerClient
) -> tuple[query_pb2.GetServingStatusResponse, dict[str, FeatureValue]]:
    """Returns the status of the query tower, and the features of `--feature` in the types that it names.

    The status is empty if no query tower is needed, or if the token may not read it and no feature is given.
    """
    status = query_pb2.GetServingStatusResponse()
    if arguments.ranking == "lexical":
        return status, {}
    try:
        status = client.status()
    except PermissionDenied as error:
        if not arguments.feature:
            return status, {}
        raise PermissionDenied(
            "the values of --feature are sent in the types that the status of the query tower names, and the token "
            f"lacks its scope, admin; give a token with read,admin, or name a user with --user-id alone ({error})"
        ) from error
    if not status.models:
        raise NoBundle("the query tower has loaded no bundle yet; publish one, or retry in a while")
    return status, parse_features(arguments.feature, status.models[0].features)


def _options(arguments: argparse.Namespace, ann: AnnClient) -> SearchOptions:
    return {
        "min_score": arguments.min_score,
        "exact": arguments.exact,
        "search_budget": arguments.search_budget,
        "ranking": arguments.ranking,
        "fusion_constant": arguments.fusion_constant,
        **_result_options(arguments, ann),
    }


class _ResultOptions(RerankingOptions):
    exclude: list[str]
    filter: Filter | None
    return_attributes: list[str]


def _result_options(arguments: argparse.Namespace, ann: AnnClient) -> _ResultOptions:
    """Returns the options that all commands that search have in common."""
    types = _attribute_types(ann) if arguments.where or arguments.boost else None
    conditions = [parse_condition(condition, types) for condition in arguments.where]
    return {
        "exclude": split_at_commas(ann, arguments.exclude),
        "filter": all_of(*conditions) if conditions else None,
        "return_attributes": arguments.attribute,
        "candidates_limit": arguments.candidates_limit,
        "boosts": parse_boosts(arguments.boost, types),
        "diversify": parse_diversify(arguments.diversity, arguments.at_most),
        "facets": arguments.facet,
    }


def _attribute_types(ann: AnnClient) -> Mapping[str, ann_pb2.AttributeType.ValueType] | None:
    """Returns the type of each item attribute by name; None if the token may not read the status, which names them."""
    try:
        bundles = ann.status().bundles
    except PermissionDenied:
        return None
    if not bundles:
        raise NoBundle("the ANN service has loaded no bundle yet; publish one, or retry in a while")
    return {attribute.name: attribute.type for attribute in bundles[0].attributes}


def _connection(arguments: argparse.Namespace) -> ConnectionOptions:
    files = {"ca_file": arguments.ca_file, "cert_file": arguments.cert_file, "key_file": arguments.key_file}
    secure = arguments.tls or arguments.server_name or any(files.values())
    return {
        "timeout_s": arguments.timeout_s,
        "token_file": arguments.token_file,
        "tls": Tls(**files, server_name=arguments.server_name) if secure else None,
    }


def _fleet(arguments: argparse.Namespace, *, timeout_s: float | None = None) -> NamedFleet:
    connection = _connection(arguments)
    if connection.get("tls") and not arguments.server_name and has_name(f"{arguments.query_tower},{arguments.ann}"):
        raise InvalidRequest.in_field(
            "--server-name",
            "is needed with TLS and dns:///, as each replica is called by its IP address; give a host name that is in "
            "the certificates of both services",
        )
    if timeout_s is not None:
        connection["timeout_s"] = timeout_s
    return NamedFleet(arguments.query_tower, arguments.ann, **connection)


def _count(replicas: Sequence[Replica], service: str) -> int:
    return sum(replica.service == service for replica in replicas)


def _shares(ready: Sequence[Replica], counts: dict[str, int]) -> str:
    return " and ".join(f"{_count(ready, service)} of {count} {service}" for service, count in counts.items())


def _refused(replica: Replica, bundle_version: str) -> bool:
    return any(problem.bundle_version == bundle_version for problem in replica.problems)


def _note_unused_query_tower(arguments: argparse.Namespace, command: str) -> None:
    if arguments.query_tower is not None:
        _print_error(f"note: `{command}` asks the ANN service alone; --query-tower is not used")


def _print(
    retrieval: Retrieval,
    arguments: argparse.Namespace,
    options: SearchOptions | _ResultOptions,
    ann: AnnClient,
    unknown_features: Sequence[str] = (),
) -> None:
    """Prints a retrieval with notes on what is unknown: as JSON, or as a table."""
    excluded, boosts = options.get("exclude", ()), options.get("boosts", ())
    unknown_items = find_unknown_items(ann, excluded, retrieval) if excluded else []
    unmatched = find_unmatched(ann, boosts, retrieval) if boosts else []
    conditions = [arguments.boost[position][0] for position in unmatched]
    if arguments.json:
        print(escape(tables.retrieval_to_json(retrieval, unknown_items, conditions)))
    else:
        print(escape(tables.retrieval_to_table(retrieval, unknown_features, unknown_items, conditions)))


def _print_error(line: str) -> None:
    print(f"two-tower: {to_line(line)}", file=sys.stderr)
