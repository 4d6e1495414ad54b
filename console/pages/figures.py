"""The live figures of the services, from their metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.pages.common import console_of, to_json


async def show_figures(request: Request) -> Response:
    """The page, which its script fills."""
    console = console_of(request)
    return console.pages.render(request, "figures.html", has_metrics=bool(console.settings.metrics))


async def tell_figures(request: Request) -> Response:
    """The figures of each process, as JSON."""
    console = console_of(request)
    return to_json(await console.service_threads.run(console.figures.look))


ROUTES = [Route("/figures", show_figures), Route("/api/figures", tell_figures)]
