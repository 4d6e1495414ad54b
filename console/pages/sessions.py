"""Signing in to the console, and the token that a person gives for the services."""

from __future__ import annotations

import asyncio
import hmac
import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from console.pages.common import console_of
from console.web.guard import SIGN_IN, body_of, session_of

_WRONG_S = 1.0
"""Pause in seconds after a wrong password. One attempt at a time is looked at, whoever makes it."""

_WAITING_MAX = 10
"""Most attempts that wait for their turn."""

_TOKEN = re.compile(r"[!-~]{1,4096}")
"""A bearer token: printable ASCII characters without blanks."""


class Attempts:
    """The attempts to sign in that are under way."""

    def __init__(self) -> None:
        """Starts without an attempt."""
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def check(self, password: str, given: str) -> bool | None:
        """Returns whether a password is right; None if too many wait already."""
        if self._waiting >= _WAITING_MAX:
            return None
        self._waiting += 1
        try:
            async with self._turn:
                if hmac.compare_digest(password.encode(), given.encode("utf-8", "replace")):
                    return True
                await asyncio.sleep(_WRONG_S)
                return False
        finally:
            self._waiting -= 1


async def show_sign_in(request: Request) -> Response:
    """The form for the password."""
    return console_of(request).pages.render(request, "sign_in.html", problem="")


async def sign_in(request: Request) -> Response:
    """Opens a session for whoever knows the password."""
    console = console_of(request)
    attempts: Attempts = request.app.state.attempts
    right = await attempts.check(console.settings.password, str(body_of(request).get("password", "")))
    if right is None:
        return console.pages.render(request, "sign_in.html", 429, problem="Too many attempts at once. Try again.")
    if not right:
        return console.pages.render(request, "sign_in.html", 403, problem="That is not the password.")
    console.sessions.end(session_of(request))
    session = console.sessions.open(signed_in=True)
    cookie = console.sessions.to_cookie(session, secure=request.url.scheme == "https")
    return RedirectResponse("/", 303, {"set-cookie": cookie})


async def sign_out(request: Request) -> Response:
    """Ends the session."""
    console = console_of(request)
    console.sessions.end(session_of(request))
    return RedirectResponse(SIGN_IN if console.settings.password else "/", 303)


async def show_token(request: Request) -> Response:
    """The form for a token."""
    return console_of(request).pages.render(request, "token.html", problem="")


async def keep_token(request: Request) -> Response:
    """Keeps a token in the session, or forgets it if the field is empty."""
    session, given = session_of(request), str(body_of(request).get("token", "")).strip()
    if given and not _TOKEN.fullmatch(given):
        problem = "A token has up to 4,096 printable ASCII characters, and no blanks."
        return console_of(request).pages.render(request, "token.html", 400, problem=problem)
    session.token = given or None
    return RedirectResponse("/token", 303)


ROUTES = [
    Route(SIGN_IN, show_sign_in, methods=["GET"]),
    Route(SIGN_IN, sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/token", show_token, methods=["GET"]),
    Route("/token", keep_token, methods=["POST"]),
]
