"""The templates of the pages. Every value is escaped."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from console.web.guard import session_of
from two_tower_client.cli.escaping import escape

FOLDER = Path(str(resources.files("console")))


def make_environment() -> Environment:
    """Returns the environment of the templates."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["time"] = to_time
    environment.filters["version_time"] = version_time
    environment.filters["bytes"] = to_size
    return environment


class Pages:
    """Renders pages."""

    def __init__(self, **common: Any) -> None:
        """Takes the values that all templates see."""
        self._environment = make_environment()
        self._environment.globals.update(common)

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Returns the page that a template makes of these values and of the session of a request."""
        session = session_of(request)
        text = self._environment.get_template(template).render(
            path=request.url.path, csrf=session.csrf, has_token=session.token is not None, **values
        )
        return HTMLResponse(text, status)


def to_time(at_ms: int) -> str:
    """Returns a time in UTC, such as ``2026-11-30 11:52:45 UTC``; a hyphen for 0."""
    if not at_ms:
        return "-"
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "-"


def version_time(version: str) -> str:
    """Returns the time at which a bundle was published, which is the begin of its version; empty if it is none."""
    try:
        return datetime.strptime(version[:16], "%Y%m%dT%H%M%SZ").strftime("%d %b %Y, %H:%M UTC").lstrip("0")
    except ValueError:
        return ""


def to_size(size_bytes: int) -> str:
    """Returns a size for people, such as ``3.4 MB``."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _finalize(value: Any) -> Any:
    """Shows control characters and marks of the writing direction, which make a text look like another one."""
    return escape(value) if type(value) is str else value
