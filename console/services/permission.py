"""Whether a person may change what is live: the services themselves say whether a token has the scope ``admin``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from console.settings import Pair
from two_tower_client.ann import AnnClient
from two_tower_client.cli.replica_addresses import find_replicas
from two_tower_client.errors import PermissionDenied, TwoTowerError, Unauthenticated
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.rpc.options import ConnectionOptions

_THREADS = 8
_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Permission:
    """Whether a change is allowed.

    Attributes:
        allowed: Whether it is.
        reason: Why not, for a person; empty if it is.
        needs_token: Whether a token with the scope ``admin`` would help.
    """

    allowed: bool
    reason: str = ""
    needs_token: bool = False


def may_change(pair: Pair, options: ConnectionOptions) -> Permission:
    """Returns whether the services let a token see their status, which needs the scope ``admin``.

    It asks every replica. Where the services require no token, everybody may change what is live. If a replica refuses
    the token, or none of one service answers, the change is not allowed.

    Args:
        pair: Services that serve the store.
        options: Options of the connections, with the token.
    """
    try:
        replicas = [(QueryTowerClient, address) for address in find_replicas(pair.query_tower)]
        anns = [(AnnClient, address) for address in find_replicas(pair.ann)]
    except TwoTowerError as error:
        return Permission(False, error.message)
    with ThreadPoolExecutor(_THREADS) as threads:
        asked = [threads.submit(_ask, make, address, options) for make, address in (*replicas, *anns)]
        errors = [each.result() for each in asked]
    for error in errors:
        if isinstance(error, Unauthenticated | PermissionDenied):
            return Permission(False, error.message, needs_token=True)
    for service, part in (("query tower service", errors[: len(replicas)]), ("ANN service", errors[len(replicas) :])):
        if all(part):
            return Permission(
                False,
                f"no replica of the {service} can say whether you may do this: {_first(part)}. With access to the "
                "store, `python -m trainer promote` and `rollback` do the same",
            )
    return Permission(True)


def _ask(
    make: type[QueryTowerClient] | type[AnnClient], address: str, options: ConnectionOptions
) -> TwoTowerError | None:
    try:
        with make(address, **{**options, "check_health": False}) as client:
            client.status(timeout_s=_TIMEOUT_S)
    except TwoTowerError as error:
        return error
    return None


def _first(errors: Sequence[TwoTowerError | None]) -> str:
    return next((error.message for error in errors if error is not None), "there is none")
