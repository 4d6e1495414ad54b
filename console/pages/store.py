"""The store: its bundles, why one was refused, and changes of what is live."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from console.bundles import listing
from console.pages.common import ask_replicas, console_of
from console.services.fleet import Refusal, find_refusals
from console.services.permission import Permission, may_change
from console.web.guard import body_of, session_of
from retrieval.bundle.errors import BundleError, BundleNotFound
from retrieval.bundle.layout import REPORT
from retrieval.store.store import BundleStore

_SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Policy of a report, beside its own: its scripts are of no origin, so they can neither read nor change the console.
Nothing is loaded: all that it shows is in it."""


async def show_store(request: Request) -> Response:
    """The list of bundles, and which is live."""
    console = console_of(request)
    text = request.query_params.get("page", "1")
    page = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 1
    listed, (replicas, trouble) = await asyncio.gather(
        console.store_threads.run(listing.list_bundles, console.store, page), ask_replicas(request)
    )
    refusals = find_refusals(replicas)
    by_version: dict[str, list[Refusal]] = defaultdict(list)
    for refusal in refusals:
        by_version[refusal.bundle_version].append(refusal)
    silent = [replica for replica in replicas if replica.error]
    return console.pages.render(
        request,
        "store.html",
        listed=listed,
        refusals=by_version,
        change=console.changes.last,
        trouble=trouble or (silent[0].error if silent else ""),
        silent=len(silent) if not trouble else len(replicas),
        replica_count=len(replicas),
    )


async def show_bundle(request: Request) -> Response:
    """A bundle: gates, refusals, metrics and files."""
    console, version = console_of(request), request.path_params["version"]
    details, (replicas, trouble) = await asyncio.gather(
        console.store_threads.run(listing.describe, console.store, version), ask_replicas(request)
    )
    refusals = [refusal for refusal in find_refusals(replicas) if refusal.bundle_version == version]
    silent = [replica for replica in replicas if replica.error]
    return console.pages.render(
        request,
        "bundle.html",
        bundle=details,
        refusals=refusals,
        trouble=trouble or (silent[0].error if silent else ""),
    )


async def show_report(request: Request) -> Response:
    """The report of a bundle, which the publisher wrote. It is shown apart from the console: see `_SANDBOX`."""
    console, version = console_of(request), request.path_params["version"]

    def find() -> listing.Details:
        details = listing.describe(console.store, version)
        if not details.has_report:
            raise BundleNotFound(f"bundle {version} has no report, or one that is too large to be shown")
        console.store.verify(version, [REPORT])
        return details

    await console.store_threads.run(find)
    headers = {"content-security-policy": _SANDBOX}
    return FileResponse(console.store.path(version) / REPORT, media_type="text/html", headers=headers)


async def confirm_promotion(request: Request) -> Response:
    """The question whether a bundle shall go live."""
    return await _ask_promotion(request)


async def promote(request: Request) -> Response:
    """Starts a promotion, if the services accept the token as one of an administrator."""
    console, version = console_of(request), request.path_params["version"]
    permission = await _permission(request)
    if not permission.allowed:
        return await _ask_promotion(request, permission)
    console.changes.promote(version, expected_live=str(body_of(request).get("expected_live", "")))
    return RedirectResponse("/fleet", 303)


async def confirm_roll_back(request: Request) -> Response:
    """The question whether the previous live bundle shall be live again."""
    return await _ask_roll_back(request)


async def roll_back(request: Request) -> Response:
    """Starts a roll back, if the services accept the token as one of an administrator."""
    console, body = console_of(request), body_of(request)
    permission = await _permission(request)
    if not permission.allowed:
        return await _ask_roll_back(request, permission)
    console.changes.roll_back(
        expected_live=str(body.get("expected_live", "")), expected_previous=str(body.get("expected_previous", ""))
    )
    return RedirectResponse("/fleet", 303)


async def _permission(request: Request, given: str = "") -> Permission:
    """Returns whether the token of a form, else of the session, else of the console, may change what is live."""
    console = console_of(request)
    if request.method == "POST":
        given = str(body_of(request).get("token", "")).strip()
    token = given or session_of(request).token
    return await console.service_threads.run(may_change, console.settings.pairs[0], console.clients.connection(token))


async def _ask_promotion(request: Request, permission: Permission | None = None) -> Response:
    console, version = console_of(request), request.path_params["version"]
    details, metrics = await console.store_threads.run(_compare, console.store, version)
    refused = permission is not None
    permission = permission or await _permission(request)
    values = {"bundle": details, "metrics": metrics, "permission": permission, "refused": refused}
    return console.pages.render(request, "promote.html", 403 if refused else 200, **values)


def _compare(store: BundleStore, version: str) -> tuple[listing.Details, list[tuple[str, float, float]]]:
    """Returns a bundle, and its metrics beside those of the live one, as far as both have them."""
    details = listing.describe(store, version)
    if details.manifest is None or details.live is None:
        return details, []
    try:
        return details, listing.compare_metrics(store.manifest(details.live.version), details.manifest)
    except BundleError:  # a live bundle that cannot be read is no reason not to replace it
        return details, []


async def _ask_roll_back(request: Request, permission: Permission | None = None) -> Response:
    console = console_of(request)
    live, trouble = await console.store_threads.run(listing.read_live, console.store)
    refused = permission is not None
    permission = permission or await _permission(request)
    values = {"live": live, "trouble": trouble, "permission": permission, "refused": refused}
    return console.pages.render(request, "roll_back.html", 403 if refused else 200, **values)


ROUTES = [
    Route("/", show_store),
    Route("/bundles/{version}", show_bundle),
    Route("/bundles/{version}/report", show_report),
    Route("/bundles/{version}/promote", confirm_promotion, methods=["GET"]),
    Route("/bundles/{version}/promote", promote, methods=["POST"]),
    Route("/roll-back", confirm_roll_back, methods=["GET"]),
    Route("/roll-back", roll_back, methods=["POST"]),
]
