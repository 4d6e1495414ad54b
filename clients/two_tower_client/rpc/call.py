"""A call in progress, over all its attempts, and its timeout."""

import math
import time

from two_tower_client.errors import InvalidRequest, TwoTowerError
from two_tower_client.rpc.call_metadata import Metadata


class Call:
    """A call in progress.

    Attributes:
        request_id: Request id, in the metadata of every attempt.
        metadata: Metadata of every attempt.
        end_s: Deadline, on the monotonic clock.
        remaining_s: Seconds that the next attempt may take.
        may_wait: Whether an attempt may wait for a connection to a replica that is ready, after one without has failed.
        waits: Whether the next attempt waits for such a connection.
        attempts: Number of failed attempts.
        last_error: Error of the last attempt; None before the first has failed.
    """

    __slots__ = ("attempts", "end_s", "last_error", "may_wait", "metadata", "remaining_s", "request_id", "waits")

    def __init__(self, request_id: str, metadata: Metadata, timeout_s: float, *, may_wait: bool) -> None:
        self.request_id, self.metadata, self.remaining_s = request_id, metadata, timeout_s
        self.end_s = time.monotonic() + timeout_s
        self.may_wait, self.waits = may_wait, False
        self.attempts = 0
        self.last_error: TwoTowerError | None = None


def check_timeout(timeout_s: float) -> float:
    """Returns `timeout_s` if it is valid. Every call needs a deadline, since without one it could wait for ever.

    Raises:
        InvalidRequest: If `timeout_s` is not a positive, finite number of seconds.
    """
    if not 0 < timeout_s < math.inf:
        raise InvalidRequest.in_field("timeout_s", f"has to be a positive number of seconds, got {timeout_s!r}")
    return timeout_s
