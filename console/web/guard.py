"""The checks of every request, before a page sees it.

| a request                                        | gets |
|--------------------------------------------------|------|
| whose Host is no name of the console             | 421: another site's name may lead here (DNS rebinding) |
| of another method than GET, HEAD and POST        | 405  |
| POST from a page of another origin               | 403  |
| POST with more than 256 KiB, or slower than 10 s | 413, 408 |
| POST without the secret of its session           | 403  |
| without the password, if the console has one     | the page that asks for it |
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.web.sessions import Session, Sessions

BODY_MAX_BYTES = 256 << 10
BODY_TIMEOUT_S = 10.0
SIGN_IN = "/sign-in"
STATIC = "/static/"

_FIELDS_MAX = 50
"""Most fields of a form."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer that does not set them itself."""

_log = logging.getLogger("console")


class Refused(Exception):
    """A request that no page sees.

    Attributes:
        status: HTTP status.
        message: Reason, for a person.
    """

    def __init__(self, status: int, message: str) -> None:
        """Takes status and reason."""
        super().__init__(message)
        self.status = status
        self.message = message


class Guard:
    """ASGI middleware with the checks above. It leaves session and body in the state of the request."""

    def __init__(self, app: ASGIApp, *, host_names: frozenset[str], sessions: Sessions, needs_password: bool) -> None:
        """Takes the application.

        Args:
            app: application that sees the requests that pass.
            host_names: host names, in small letters, that a request may name.
            sessions: sessions of all browsers.
            needs_password: whether only sessions that have signed in see the pages.
        """
        self._app = app
        self._host_names = host_names
        self._sessions = sessions
        self._needs_password = needs_password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            raise RuntimeError(f"the console speaks HTTP, not {scope['type']}")
        request = Request(scope, receive)
        cookie, session = None, None
        try:
            self._check_host(request.headers)
            session = self._sessions.find(request.cookies.get(self._sessions.cookie, ""))
            if request.method == "POST":
                await self._check_change(request, session)
            elif request.method not in ("GET", "HEAD"):
                raise Refused(405, f"the console answers GET and POST, not {request.method}")
            if session is None and not request.url.path.startswith(STATIC):
                session = self._sessions.open()
                cookie = self._sessions.to_cookie(session, secure=request.url.scheme == "https")
            answer = self._ask_for_password(request, session)
        except Refused as refused:
            _log.warning("refused %s %s: %s", request.method, quote(request.url.path[:200]), refused.message)
            answer, cookie = to_error(request.url.path, refused.status, refused.message), None
        request.state.session = session
        await (answer or self._app)(scope, receive, _with_headers(send, cookie))

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if name not in self._host_names:
            known = ", ".join(sorted(self._host_names))
            raise Refused(421, f"this is the console of {known}; start it with --name to reach it by another name")

    async def _check_change(self, request: Request, session: Session | None) -> None:
        """Checks origin, size and secret of a POST, and leaves what it carries in ``request.state.body``."""
        origin, host = request.headers.get("origin", ""), request.headers["host"]
        if origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise Refused(403, "the request comes from another page than one of this console")
        body = await _read_body(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind == "application/json":
                given = request.headers.get("x-csrf-token", "")
                request.state.body = json.loads(body)
                if not isinstance(request.state.body, dict):
                    raise ValueError("it is not an object")
            elif kind == "application/x-www-form-urlencoded":
                fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX))
                given = fields.pop("csrf", "")
                request.state.body = fields
            else:
                raise Refused(415, f"the console reads JSON and forms, not {kind[:80] or 'bytes of no kind'}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the request cannot be read: {error}") from error
        if session is None or not session.has_csrf(given):
            raise Refused(403, "the page is out of date, for instance because the console was restarted: load it again")

    def _ask_for_password(self, request: Request, session: Session | None) -> Response | None:
        path = request.url.path
        if not self._needs_password or path == SIGN_IN or path.startswith(STATIC):
            return None
        if session is not None and session.signed_in:
            return None
        if path.startswith("/api/") or request.method == "POST":
            return to_error(path, 401, "sign in first: load the page again")
        return RedirectResponse(SIGN_IN, 303)


def to_error(path: str, status: int, message: str) -> Response:
    """Returns the answer to a request that failed: JSON below ``/api/``, else plain text."""
    if path.startswith("/api/"):
        return JSONResponse({"error": message}, status)
    return PlainTextResponse(message + "\n", status)


def _host_name(host: str) -> str:
    """Returns the host name in a header ``Host``, in small letters; empty if it has another form."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return ""
    return (parts.hostname or "") if not parts.path and "@" not in host else ""


async def _read_body(request: Request) -> bytes:
    """Returns the body of a request. Raises Refused if it is too large or too slow."""
    too_large = Refused(413, f"the request is larger than {BODY_MAX_BYTES >> 10} KiB")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > BODY_MAX_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_MAX_BYTES:
                    raise too_large
    except TimeoutError as error:
        raise Refused(408, f"the request did not arrive within {BODY_TIMEOUT_S:g} s") from error
    return bytes(body)


def _with_headers(send: Send, cookie: str | None) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if cookie is not None and "set-cookie" not in headers:
                headers.append("set-cookie", cookie)
        await send(message)

    return send_with_headers


def body_of(request: Request) -> Mapping[str, Any]:
    """Returns what a POST carries: the object of its JSON, or the fields of its form."""
    body: Mapping[str, Any] = request.state.body
    return body


def session_of(request: Request) -> Session:
    """Returns the session of a request."""
    session: Session = request.state.session
    return session
