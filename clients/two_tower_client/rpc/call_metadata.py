"""The metadata of a call: token, caller, request id, user and trace context."""

import importlib
import logging
import os
import re
import sys
import time
from pathlib import Path
from types import ModuleType

from two_tower_client.errors import InvalidRequest

Metadata = tuple[tuple[str, str], ...]

_LOOK_EVERY_S = 1.0
"""Shortest time between two looks at the token file, in seconds."""
_CALLER = re.compile(r"[!-~]([ -~]{0,62}[!-~])?")
_ID = re.compile(r"[!-~]{1,128}")
_log = logging.getLogger(__name__)


class CallMetadata:
    """Makes the metadata of each call of a client. Threads may share it.

    A token file is read again once it has changed, at most a second later. If it cannot be read then, or has no valid
    token, the previous token stays and a warning is logged.

    Args:
        token: Bearer token. Default: none.
        token_file: File with the bearer token. Excludes `token`.
        caller: Name of the calling program, 1 to 64 printable ASCII characters. Default ("") sends none.

    Attributes:
        has_token: Whether calls carry a token.

    Raises:
        InvalidRequest: If the token, its file or the caller is invalid.
    """

    def __init__(self, token: str | None = None, token_file: str | None = None, caller: str = "") -> None:
        if token is not None and token_file is not None:
            raise InvalidRequest.in_field("token", "`token` and `token_file` exclude each other; give one")
        if caller and not _CALLER.fullmatch(caller):
            raise InvalidRequest.in_field(
                "caller",
                f"has to be 1 to 64 printable ASCII characters, without blanks at its ends, got {caller!r:.80}",
            )
        self._caller: Metadata = (("two-tower-caller", caller),) if caller else ()
        self._token_file = token_file
        self._look_at_s, self._stamp = 0.0, _stamp("")
        self._fixed = self._caller
        self.has_token = token is not None or token_file is not None
        if token is not None:
            self._fixed = (*_authorization(token), *self._caller)
        elif token_file is not None:
            self._read_token(token_file)

    def make(self, request_id: str, user: str = "", *, traced: bool = True) -> Metadata:
        """Returns the metadata of a call.

        The active span of OpenTelemetry is passed on, if the process uses OpenTelemetry. Its API is never imported
        here: a program with an active span has imported it.

        Args:
            request_id: Request id, from `check_request_id` or `make_request_id`.
            user: Key of the user, from `check_user`. Default ("") sends none.
            traced: Whether the active span is passed on. Default: True.
        """
        if self._token_file is not None and time.monotonic() >= self._look_at_s:
            self._look_again(self._token_file)
        metadata = (*self._fixed, ("x-request-id", request_id))
        if user:
            metadata = (*metadata, ("two-tower-user", user))
        trace = sys.modules.get("opentelemetry.trace") if traced else None
        return metadata if trace is None else metadata + _trace_context(trace)

    def is_sampled(self) -> bool:
        """Returns whether there is an active span of OpenTelemetry that is recorded."""
        current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
        return current_span is not None and current_span().get_span_context().trace_flags.sampled

    def _look_again(self, path: str) -> None:
        self._look_at_s = time.monotonic() + _LOOK_EVERY_S
        if _stamp(path) == self._stamp:
            return
        try:
            self._read_token(path)
        except InvalidRequest as error:
            _log.warning("kept the previous token: %s", error)

    def _read_token(self, path: str) -> None:
        # Before reading: a change in between is seen at the next look, and a file that cannot be used is reported once.
        self._stamp = _stamp(path)
        try:
            text = Path(path).read_bytes().decode("utf-8", "replace")
        except OSError as error:
            raise InvalidRequest.in_field("token_file", f"cannot read {path!r}: {error.strerror}") from error
        self._fixed = (*_authorization(text), *self._caller)


def make_request_id() -> str:
    """Returns a new request id: 32 hexadecimal digits, random."""
    return os.urandom(16).hex()


def check_request_id(request_id: str) -> str:
    """Returns `request_id` if a header can carry it.

    Raises:
        InvalidRequest: If it is not 1 to 128 printable ASCII characters without blanks.
    """
    return _check_id("request_id", request_id)


def check_user(user: str) -> str:
    """Returns `user` if it is empty, or if a header can carry it.

    Raises:
        InvalidRequest: If it is neither empty nor 1 to 128 printable ASCII characters without blanks.
    """
    return _check_id("user", user) if user else user


def _check_id(field_name: str, value: str) -> str:
    if not _ID.fullmatch(value):
        raise InvalidRequest.in_field(
            field_name, f"has to be 1 to 128 printable ASCII characters without blanks, got {value!r:.150}"
        )
    return value


def _authorization(token: str) -> Metadata:
    token = token.strip()
    # The message does not contain the token, because messages are logged.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequest.in_field("token", "is empty, or has spaces or other than printable ASCII characters")
    return (("authorization", f"Bearer {token}"),)


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Returns modification time, size and inode of a file, or of the file behind a link; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _trace_context(trace: ModuleType) -> Metadata:
    """Returns the headers of the active span; none without an active span.

    The propagator of the program decides which: by default `traceparent`, `tracestate` and `baggage`.

    Args:
        trace: Module `opentelemetry.trace`. Another thread may still be importing it.
    """
    current_span = getattr(trace, "get_current_span", None)
    if current_span is None or not current_span().get_span_context().is_valid:
        return ()
    headers: dict[str, str] = {}
    importlib.import_module("opentelemetry.propagate").inject(headers)
    return tuple((name.lower(), value) for name, value in headers.items())
