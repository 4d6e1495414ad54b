"""Decides whether and when a failed call is sent again.

- A call is tried up to `ATTEMPTS_MAX` times, all within its deadline. A pause that would outlast the deadline is not
  begun: the caller gets the error at once.
- A service that is unavailable or stopping is tried again after a pause that doubles with each attempt. If no replica
  could be reached, the next attempt waits for one, as long as the deadline allows.
- A refusal (`Overloaded`) is retried only if it says when, and not earlier. Its pause doubles with each attempt too, as
  `google.rpc.RetryInfo` asks. A refusal without that hint, such as a message that is too large, is not retried.
- The retries of a client are at most a tenth of its calls, after a first hundred (`RetryBudget`). A second budget of
  this size is for calls that are sent to one more replica because the first is slow (`two_tower_client.rpc.hedging`).

gRPC's own retry policy does not serve here: it waits for the hint beyond the deadline, does not read
`google.rpc.RetryInfo`, and retries refusals without a hint.

Sources: gRPC proposal A6, "Client Retries" (throttling, pushback); Beyer et al., "Site Reliability Engineering" (2016),
chapter 21, "Handling Overload" (retry budget of a tenth, adaptive throttling).
"""

import math
import random
import threading
import time
from collections.abc import Callable

import grpc

from two_tower_client.errors import Overloaded, TwoTowerError

ATTEMPTS_MAX = 4
"""Most attempts of one call, the first included."""
PAUSE_S = 0.02
"""Shortest pause before the first retry, in seconds."""
_BACKOFF_MAX_S = 0.5

_random = random.SystemRandom()
"""Of the client alone: it disturbs no program that seeds `random`, and forked processes do not draw alike."""

# Every call reads, or writes nothing twice, so it may be repeated. A gRPC server that is just stopping answers new
# calls with CANCELLED.
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

_THROTTLE_MULTIPLIER = 2.0
"""K of the formula of adaptive throttling."""
_WINDOW_S = 2.0
_REQUESTS_MIN = 20.0


class RetryBudget:
    """Token bucket: after a first hundred, the retries of a client are at most a tenth of its calls.

    Threads may share it.

    The bucket holds 100 tokens and starts full, so a burst of 100 failures can be retried, as after the loss of a
    replica. Each call adds a tenth of a token, each retry takes one.
    """

    _TOKENS_MAX = 100.0
    _TOKENS_PER_CALL = 0.1

    def __init__(self) -> None:
        self._tokens = self._TOKENS_MAX
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Adds the share of one call."""
        if self._tokens < self._TOKENS_MAX:  # without the lock, which a full bucket does not need
            with self._lock:
                self._tokens = min(self._TOKENS_MAX, self._tokens + self._TOKENS_PER_CALL)

    def spend(self) -> bool:
        """Takes one token. Returns whether there was one."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class AdaptiveThrottle:
    """Rejects calls locally while a service refuses more than half of them. Threads may share it.

    A call is rejected with probability max(0, (requests - 2 accepts) / (requests + 1)), where `requests` counts the
    finished attempts and the local rejections, and `accepts` the attempts that were not refused (Beyer et al. 2016,
    chapter 21, with K = 2). Both counts decay by a factor of e every 2 s. Below 20 counted requests nothing is
    rejected: one refusal says little about the next call.

    Args:
        clock: Clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._requests = self._accepts = 0.0
        self._counted_at_s = clock()

    def admits(self) -> bool:
        """Returns whether the next call is sent, and counts it if it is not."""
        with self._lock:
            self._decay()
            if self._requests < _REQUESTS_MIN:
                return True
            excess = self._requests - _THROTTLE_MULTIPLIER * self._accepts
            if _random.random() >= excess / (self._requests + 1):
                return True
            self._requests += 1
            return False

    def count(self, *, accepted: bool) -> None:
        """Counts a finished attempt. Attempts in flight count as nothing, so a slow service is not throttled."""
        with self._lock:
            self._decay()
            self._requests += 1
            self._accepts += accepted

    def _decay(self) -> None:
        now_s = self._clock()
        kept = math.exp((self._counted_at_s - now_s) / _WINDOW_S)
        self._requests, self._accepts, self._counted_at_s = self._requests * kept, self._accepts * kept, now_s


class Retries:
    """The retry policy of one client. Threads may share it.

    Args:
        throttled: Whether `AdaptiveThrottle` rejects calls locally.
    """

    def __init__(self, *, throttled: bool) -> None:
        self._budget = RetryBudget()
        self._hedges = RetryBudget()  # of its own: a slow replica must not use up the retries of failed calls
        self._throttle = AdaptiveThrottle() if throttled else None

    def admit(self, target: str) -> None:
        """Counts a call that is about to be sent.

        Args:
            target: gRPC target of the call, for the message.

        Raises:
            Overloaded: If the call is rejected locally.
        """
        self._budget.earn()
        self._hedges.earn()
        if self._throttle is not None and not self._throttle.admits():
            raise Overloaded(
                f"not sent: {target} refused more than half of this client's latest calls as overloaded; retry with "
                "backoff, or add replicas (adaptive_throttling=False sends every call)",
                local=True,
            )

    def hedge(self) -> bool:
        """Returns whether a call may be sent to one more replica too, and takes that from its budget if so."""
        return self._hedges.spend()

    def succeeded(self) -> None:
        """Counts an attempt that was answered."""
        if self._throttle is not None:
            self._throttle.count(accepted=True)

    def failed(self, error: TwoTowerError, code: grpc.StatusCode, *, attempts: int, remaining_s: float) -> float | None:
        """Counts a failed attempt, and takes a retry from the budget if there is to be one.

        Args:
            error: Error of the attempt.
            code: Status code of the attempt.
            attempts: Number of attempts so far, this one included.
            remaining_s: Seconds until the deadline of the call.

        Returns:
            Seconds to wait before the next attempt; None if there is to be no further attempt.
        """
        if self._throttle is not None:
            self._throttle.count(accepted=not isinstance(error, Overloaded))
        pause_s = _pause_s(error, code, attempts)
        if pause_s is None or attempts >= ATTEMPTS_MAX or pause_s >= remaining_s or not self._budget.spend():
            return None
        return pause_s


def _pause_s(error: TwoTowerError, code: grpc.StatusCode, attempts: int) -> float | None:
    """Returns the seconds before the next attempt, with jitter; None if a retry does not help."""
    doubled = 2 ** (attempts - 1)
    if isinstance(error, Overloaded):
        if error.retry_after_s is None:
            return None
        # Never earlier than the hint, and not all callers at once.
        return max(error.retry_after_s, PAUSE_S) * doubled * _random.uniform(1.0, 1.5)
    if code in _TRANSIENT:
        return min(PAUSE_S * doubled, _BACKOFF_MAX_S) * _random.uniform(0.8, 1.2)
    return None
