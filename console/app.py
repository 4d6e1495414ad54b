"""The application: routes, checks and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from console.pages import figures, fleet, playground, sessions, store
from console.pages.common import EXPECTED, answer_error
from console.state import Console
from console.web.guard import Guard
from console.web.rendering import FOLDER


def make_app(console: Console) -> Starlette:
    """Returns the ASGI application of a console."""
    guard = Middleware(
        Guard,
        host_names=console.settings.host_names,
        sessions=console.sessions,
        needs_password=bool(console.settings.password),
    )
    handlers: Mapping[Any, Any] = {**dict.fromkeys(EXPECTED, answer_error), 404: _not_found}
    app = Starlette(
        routes=[
            *store.ROUTES,
            *fleet.ROUTES,
            *playground.ROUTES,
            *figures.ROUTES,
            *sessions.ROUTES,
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
        ],
        middleware=[guard],
        exception_handlers=handlers,
    )
    app.state.console = console
    app.state.attempts = sessions.Attempts()
    return app


async def _not_found(request: Request, error: Exception) -> Response:
    message = "there is no such page"
    if request.url.path.startswith(("/api/", "/static/")):
        return JSONResponse({"error": message}, 404)
    pages = request.app.state.console.pages
    response: Response = pages.render(request, "error.html", 404, message=message, needs_token=False)
    return response
