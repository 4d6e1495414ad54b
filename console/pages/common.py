"""What several pages do: ask the services in a thread, and answer errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from console.bundles.change import Busy
from console.services.clients import PairClients
from console.settings import SettingsError
from console.state import Console
from console.web.guard import session_of
from console.web.threads import TookTooLong
from retrieval.bundle.errors import BundleError, BundleNotFound, InvalidVersion
from two_tower_client.errors import InvalidRequest, PermissionDenied, TwoTowerError, Unauthenticated
from two_tower_client.fleet import Replica

Result = TypeVar("Result")

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (InvalidRequest, 400),
    (Unauthenticated, 403),
    (PermissionDenied, 403),
    (BundleNotFound, 404),
    (InvalidVersion, 404),
    (Busy, 409),
    (TookTooLong, 504),
    (TwoTowerError, 502),
    (BundleError, 502),
    (SettingsError, 502),
)
"""HTTP status of each expected error; the first that fits counts."""

EXPECTED = tuple(kind for kind, _ in _STATUSES)


def console_of(request: Request) -> Console:
    """Returns the console that a request is for."""
    console: Console = request.app.state.console
    return console


async def with_clients(request: Request, work: Callable[[Sequence[PairClients]], Result]) -> Result:
    """Returns what a function makes of the clients that send the token of a session, in a thread.

    Raises:
        TwoTowerError: The token is invalid, or the function raised it.
        TookTooLong: It has not ended in time.
    """
    console, token = console_of(request), session_of(request).token

    def use() -> Result:
        with console.clients.use(token) as pairs:
            return work(pairs)

    return await console.service_threads.run(use)


async def ask_replicas(request: Request) -> tuple[Sequence[Replica], str]:
    """Returns the status of each replica of the first pair, and why there is none if it cannot be asked."""
    try:
        return await with_clients(request, lambda pairs: pairs[0].ask()), ""
    except TwoTowerError as error:
        return (), error.message


def to_json(content: Any) -> JSONResponse:
    """Returns an answer with JSON: null for numbers that are not finite, as metrics may be, and which JSON lacks."""
    return JSONResponse(_finite(content))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in cast("Sequence[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def answer_error(request: Request, error: Exception) -> Response:
    """Returns the answer to a request that failed with an expected error."""
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    message = error.message if isinstance(error, TwoTowerError) else str(error)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status)
    needs_token = isinstance(error, Unauthenticated | PermissionDenied)
    return console_of(request).pages.render(request, "error.html", status, message=message, needs_token=needs_token)
