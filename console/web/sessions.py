"""The sessions of browsers: who has signed in, and the token that a person gave on the page. Kept in memory alone."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_SESSIONS_MAX = 200
"""Most sessions at once; beyond it, the idlest ends, and one of a person who has signed in or given a token last."""

_IDLE_S = 12 * 3600.0
"""Time after which a session that is not used ends, in seconds."""


@dataclass
class Session:
    """The session of one browser.

    Attributes:
        key: Secret in the cookie.
        csrf: Secret that every change has to name, which other pages cannot read.
        signed_in: Whether the person knew the password of the console.
        token: Bearer token for the services that the person gave; None: that of the settings, if there is one.
        used_s: Time of the last use, in seconds of the monotonic clock.
    """

    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    signed_in: bool = False
    token: str | None = field(default=None, repr=False)
    used_s: float = 0.0

    @property
    def is_valued(self) -> bool:
        """Whether somebody would miss it: strangers, who open any number of sessions, cannot make it end."""
        return self.signed_in or self.token is not None

    def has_csrf(self, given: str) -> bool:
        """Returns whether `given` is the secret of this session."""
        return hmac.compare_digest(self.csrf.encode(), given.encode("utf-8", "replace"))


class Sessions:
    """The sessions of all browsers. Safe for use by several threads.

    Attributes:
        cookie: Name of the cookie with the key of a session.
    """

    def __init__(self, cookie: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts without a session.

        Args:
            cookie: name of the cookie.
            clock: returns the time in seconds.
        """
        self.cookie = cookie
        self._clock = clock
        self._lock = threading.Lock()
        self._by_key: OrderedDict[str, Session] = OrderedDict()  # the one that was used last is last

    def find(self, key: str) -> Session | None:
        """Returns the session of a cookie, and marks it as used; None if there is none, or it has ended."""
        now_s = self._clock()
        with self._lock:
            session = self._by_key.get(key)
            if session is None:
                return None
            if now_s - session.used_s > _IDLE_S:
                del self._by_key[key]
                return None
            session.used_s = now_s
            self._by_key.move_to_end(key)
            return session

    def open(self, *, signed_in: bool = False) -> Session:
        """Returns a new session."""
        session = Session(signed_in=signed_in, used_s=self._clock())
        with self._lock:
            self._by_key[session.key] = session
            if len(self._by_key) > _SESSIONS_MAX:
                others = (key for key, each in self._by_key.items() if not each.is_valued and each is not session)
                del self._by_key[next(others, next(iter(self._by_key)))]
        return session

    def end(self, session: Session) -> None:
        """Ends a session."""
        with self._lock:
            self._by_key.pop(session.key, None)

    def to_cookie(self, session: Session, *, secure: bool) -> str:
        """Returns the value of the header ``Set-Cookie`` for a session."""
        return f"{self.cookie}={session.key}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
