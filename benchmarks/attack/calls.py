"""A load of calls, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np

OK = grpc.StatusCode.OK.value[0]
REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
NUMBER = b"@@@@@@@@"
"""Eight bytes of a request that are replaced by the number of the call, so that no two requests are equal."""


@dataclass(frozen=True)
class Load:
    """Calls to send.

    Attributes:
        address: Address of the service.
        method: Path of the method, for instance ``/two_tower.ann.v1.AnnService/SearchItems``.
        requests: Serialized requests, which are sent in turn; see `NUMBER`.
        seconds: Time during which calls are begun, in seconds.
        timeout_s: Deadline of each call, in seconds after its beginning.
        rate: Calls per second of an open loop. None: a closed loop.
        callers: Number of callers of a closed loop, each of which waits for its answer before it calls again.
        metadata: Metadata of each call.
        max_calls: Number of calls after which the load ends early. Default (0): no limit.
        first_number: Number of the first call, for `NUMBER`.
        delay_s: Time after the start of the load generators at which the load begins, in seconds.
    """

    address: str
    method: str
    requests: Sequence[bytes]
    seconds: float
    timeout_s: float
    rate: float | None = None
    callers: int = 1
    metadata: tuple[tuple[str, str], ...] = ()
    max_calls: int = 0
    first_number: int = 0
    delay_s: float = 0.0


@dataclass
class Calls:
    """What became of the calls of a load.

    Attributes:
        began_s: [n] float64, time at which each call was begun.
        ended_s: [n] float64, time of its answer or failure.
        codes: [n] int64, gRPC status code.
        timeout_s: Deadline of each call, in seconds.
        lags_s: [m] float64, delays of the load generator's event loop, sampled every 10 ms. Large ones mean that the
            load generator, not the service, was the bottleneck.
        answer: Response or error text of one of the calls.
    """

    began_s: np.ndarray
    ended_s: np.ndarray
    codes: np.ndarray
    timeout_s: float
    lags_s: np.ndarray
    answer: bytes | str = b""

    @staticmethod
    def joined(parts: Sequence[Calls]) -> Calls:
        """Returns the calls of several loads with the same deadline together."""
        began_s, ended_s, codes, lags_s = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("began_s", "ended_s", "codes", "lags_s")
        )
        return Calls(began_s, ended_s, codes, parts[0].timeout_s, lags_s, parts[0].answer)

    @property
    def latencies_s(self) -> np.ndarray:
        """Latency of each call in seconds: [n] float64."""
        return self.ended_s - self.began_s

    @property
    def in_time(self) -> np.ndarray:
        """Whether each call was answered before its deadline: [n] bool."""
        return (self.codes == OK) & (self.latencies_s <= self.timeout_s)

    @property
    def seconds(self) -> float:
        """Time from the first call's beginning to the last one's end, in seconds; at least 1 ms."""
        return max(1e-3, float(self.ended_s.max() - self.began_s.min())) if len(self.codes) else 1e-3

    @property
    def offered(self) -> float:
        """Number of calls begun per second, between the first and the last beginning."""
        return (len(self.codes) - 1) / max(1e-3, float(np.ptp(self.began_s))) if len(self.codes) > 1 else 0.0

    def goodput(self, seconds: float) -> float:
        """Returns the number of answers in time per second of a load that ran for `seconds`."""
        return float(self.in_time.sum()) / seconds

    def percentile_ms(self, percent: float, code: int = OK) -> float:
        """Returns a percentile of the latency of the calls with a code, in ms; infinity if there is none."""
        chosen = self.latencies_s[self.codes == code]
        return 1e3 * float(np.percentile(chosen, percent)) if len(chosen) else float("inf")
