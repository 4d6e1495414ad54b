"""The fleet: each replica of each service, and a swap as it rolls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from console.bundles.listing import read_live
from console.pages.common import console_of, with_clients
from console.services.clients import PairClients
from console.services.fleet import describe_pair


async def show_fleet(request: Request) -> Response:
    """The page, which its script fills."""
    return console_of(request).pages.render(request, "fleet.html")


async def tell_fleet(request: Request) -> Response:
    """The status of each replica, the live bundle of the store, and the last change, as JSON."""
    console = console_of(request)

    def ask(pairs: Sequence[PairClients]) -> dict[str, Any]:
        in_flight = console.figures.in_flight()
        live, trouble = read_live(console.store)
        change = console.changes.last
        return {
            "at_ms": int(1000 * time.time()),
            "pairs": [describe_pair(each.pair, each.ask(), in_flight) for each in pairs],
            "store": {"live": live.version if live else "", "trouble": trouble},
            "change": asdict(change) if change else None,
        }

    return JSONResponse(await with_clients(request, ask))


ROUTES = [Route("/fleet", show_fleet), Route("/api/fleet", tell_fleet)]
