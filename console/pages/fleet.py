"""The fleet: each replica of each service, and a swap as it rolls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.bundles.listing import read_live
from console.pages.common import console_of, to_json, with_clients
from console.services.clients import PairClients
from console.services.fleet import describe_pair
from console.state import Console
from console.web.threads import TookTooLong

_STORE_S = 5.0
"""Time after which the replicas are shown without what the store says."""


async def show_fleet(request: Request) -> Response:
    """The page, which its script fills."""
    return console_of(request).pages.render(request, "fleet.html")


async def tell_fleet(request: Request) -> Response:
    """The status of each replica, the live bundle of the store, and the last change, as JSON."""
    console = console_of(request)

    def ask(pairs: Sequence[PairClients]) -> dict[str, Any]:
        in_flight = console.figures.in_flight()
        change = console.changes.last
        return {
            "at_ms": int(1000 * time.time()),
            "pairs": [describe_pair(each.pair, each.ask(), in_flight) for each in pairs],
            "change": asdict(change) if change else None,
        }

    fleet, store = await asyncio.gather(with_clients(request, ask), _tell_live(console))
    return to_json({**fleet, "store": store})


async def _tell_live(console: Console) -> dict[str, str]:
    """Returns the live bundle of the store as JSON. A store that hangs does not keep the replicas from being shown."""
    try:
        live, trouble = await asyncio.wait_for(console.store_threads.run(read_live, console.store), _STORE_S)
    except (TimeoutError, TookTooLong):
        return {"live": "", "trouble": "the store does not say which bundle is live: it hangs"}
    return {"live": live.version if live else "", "trouble": trouble}


ROUTES = [Route("/fleet", show_fleet), Route("/api/fleet", tell_fleet)]
