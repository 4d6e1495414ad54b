"""What happens to a fleet, one thing after another, and what its clients are promised meanwhile."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from testbed.services import SERVICES, Replica
from tests.system.fleet.client import TIMEOUT_S
from tests.system.fleet.deployment import REPLICAS, Deployment
from tests.system.fleet.readings import Seen
from tests.system.fleet.report import Row
from two_tower_client.rpc.hedging import HEDGE_SHARE

UNEVEN_MAX = 0.10
"""Largest difference between a replica's share of the answers and an even share, as a share of the even share."""
BACK_WITHIN_S = 30.0
"""Longest time from the end of a fault until the load is even again, in seconds."""
DELAY_S = 0.1
"""Delay of a slow link each way, in seconds."""

_SLOW_S = HEDGE_SHARE * TIMEOUT_S
"""Time after which a client sends a call to another replica too, in seconds."""
_NO_CALLS_S = 2.0
"""Time at the end of a fault in which a replica that is out of the name must get no calls, in seconds."""


@dataclass(frozen=True)
class Scale:
    """Size of a run.

    Attributes:
        duration_s: Time of the whole run, in seconds. Faults are repeated until it is over.
        well_s: Time in which nothing happens, in seconds.
        swap_s: Pause after each promotion and roll back, in seconds.
        fault_s: Time that each fault lasts, in seconds.
    """

    duration_s: float
    well_s: float
    swap_s: float
    fault_s: float


FULL = Scale(1800, 120, 10, 90)
SHORT = Scale(180, 15, 0.5, 12)

SWAPS = 20
"""Number of promotions and roll backs while all replicas are well. Each rolling restart and each fault adds one."""


@dataclass
class Fault:
    """A kind of fault, and what was measured each time that it was caused.

    Attributes:
        name: Name of the fault.
        begin: Begins the fault of a replica, and returns what ends it.
        slowest_s: Longest latency of an answer during the fault, each time, in seconds.
        noticed_s: Time from the begin of the fault until a second without an answer that waited for another attempt,
            each time, in seconds.
        back_s: Time from the end of the fault until the load was even again, each time, in seconds; infinity: not in
            time.
        answers: Number of answers of the replica in the last seconds of the fault, each time.
    """

    name: str
    begin: Callable[[Replica], Callable[[], None]]
    slowest_s: list[float] = field(default_factory=list)
    noticed_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


class Scenario:
    """A run on a deployment whose clients send requests."""

    def __init__(self, deployment: Deployment, versions: Sequence[str], scale: Scale) -> None:
        """Prepares the run.

        Args:
            deployment: the fleet.
            versions: three versions of its store, of which the first is live.
            scale: size of the run.
        """
        self._deployment, self._scale = deployment, scale
        self._began_s = time.monotonic()
        self._swaps = self._swap_forever(versions)
        self._promotions = self._roll_backs = self._restarts = 0
        self._well: list[tuple[str, float, float]] = []
        self._restarted = Fault("rolling restart", lambda replica: lambda: None)
        self._out = Fault("replica out of the name", deployment.leave_out)
        self._faults = [Fault("replica frozen (SIGSTOP)", deployment.freeze)]
        network = deployment.network
        if network.has_links:
            self._faults = [
                Fault("link cut", self._cut),
                Fault(f"link slowed by {2 * DELAY_S * 1e3:.0f} ms", self._slow),
                *self._faults,
                self._out,
            ]

    def run(self) -> list[Row]:
        """Does everything, prints a line for each step, and returns the rows of the table."""
        scale = self._scale
        self._stay_well()
        began_s = time.monotonic()
        self._say(f"{SWAPS} promotions and roll backs")
        for _ in range(SWAPS):
            next(self._swaps)
            self._deployment.wait_for_live()
            time.sleep(scale.swap_s)
        self._end_well("swaps", began_s)
        self._restart_all()
        victims = self._victims()
        for number, fault in enumerate(itertools.cycle(self._faults)):
            left_s = scale.duration_s - (time.monotonic() - self._began_s)
            if number >= len(self._faults) and left_s < scale.fault_s + BACK_WITHIN_S + scale.well_s:
                break
            self._cause(fault, next(victims))
            if number % len(self._faults) == len(self._faults) - 1:
                self._stay_well()
        return self._rows(self._deployment.finish())

    def _stay_well(self) -> None:
        self._say("all replicas are well")
        began_s = time.monotonic()
        time.sleep(self._scale.well_s)
        self._end_well("nothing happens", began_s)

    def _end_well(self, what: str, began_s: float) -> None:
        ended_s = time.monotonic()
        self._well.append((what, began_s, ended_s))
        self._say(f"  load within {self._deployment.sampler.worst(began_s, ended_s):.1%} of even")

    def _restart_all(self) -> None:
        """Restarts each replica, with a swap during each restart."""
        self._say("rolling restarts")
        began_s = time.monotonic()
        for service in SERVICES:
            for replica in self._deployment.replicas[service]:
                next(self._swaps)
                self._deployment.restart(replica)
                self._deployment.wait_for_live()
                self._restarts += 1
        self._measure(self._restarted, began_s)

    def _cause(self, fault: Fault, replica: Replica) -> None:
        """Causes a fault, with a swap in its middle that the replica may not see before its end."""
        self._say(f"{fault.name}: {replica.service} at {replica.host}")
        began_s = time.monotonic()
        end = fault.begin(replica)
        try:
            time.sleep(self._scale.fault_s / 2)
            next(self._swaps)
            time.sleep(self._scale.fault_s / 2)
            fault.answers.append(self._answers_lately(replica))
        finally:
            end()
        self._measure(fault, began_s)
        self._deployment.wait_for_live()

    def _answers_lately(self, replica: Replica) -> int:
        now_s = time.monotonic()
        answers = self._deployment.sampler.answers(replica.service, now_s - _NO_CALLS_S, now_s)
        return answers[self._deployment.replicas[replica.service].index(replica)]

    def _measure(self, fault: Fault, began_s: float) -> None:
        ended_s = time.monotonic()
        back_s = self._deployment.sampler.wait_until_even(UNEVEN_MAX, BACK_WITHIN_S)
        seen = self._deployment.seen()
        fault.slowest_s.append(seen.slowest_s(began_s, ended_s))
        fault.noticed_s.append(_until_quiet(began_s, seen.slower(_SLOW_S, began_s, ended_s)) - began_s)
        fault.back_s.append(math.inf if back_s is None else back_s)
        self._say(
            f"  slowest answer {fault.slowest_s[-1]:.2f} s; calls waited for another attempt until "
            f"{fault.noticed_s[-1]:.1f} s; even again {fault.back_s[-1]:.1f} s after"
        )

    def _swap_forever(self, versions: Sequence[str]) -> Iterator[None]:
        """Promotes the next version, or rolls back every third time, at each step."""
        for number in itertools.count(1):
            if number % 3 == 0:
                self._deployment.store.roll_back()
                self._roll_backs += 1
            else:
                self._deployment.store.promote(versions[number % len(versions)])
                self._promotions += 1
            yield

    def _victims(self) -> Iterator[Replica]:
        """Yields replicas of both services in turn."""
        replicas = self._deployment.replicas
        return itertools.cycle([each for trio in zip(*(replicas[s] for s in SERVICES), strict=True) for each in trio])

    def _cut(self, replica: Replica) -> Callable[[], None]:
        network, host = self._deployment.network, _host(replica)
        network.cut(host)
        return lambda: network.mend(host)

    def _slow(self, replica: Replica) -> Callable[[], None]:
        network, host = self._deployment.network, _host(replica)
        network.slow(host, DELAY_S)
        return lambda: network.mend(host)

    def _say(self, text: str) -> None:
        seen = self._deployment.seen()
        counts = f"{seen.sent:,} sent, {seen.failures.total()} failed, {seen.mixed} mixed"
        print(f"{time.monotonic() - self._began_s:6.0f} s  {text}  ({counts})", flush=True)

    def _rows(self, seen: Seen) -> list[Row]:
        for message, count in seen.failures.most_common(5):
            print(f"failed {count} x: {message}")
        failed = seen.failures.total()
        swaps = self._promotions + self._roll_backs
        rows = [
            Row("requests", f"{seen.sent:,}", "", None),
            Row("promotions, roll backs", f"{self._promotions}, {self._roll_backs}", f"{SWAPS}", swaps >= SWAPS),
            Row("rolling restarts", str(self._restarts), str(2 * REPLICAS), self._restarts == 2 * REPLICAS),
            Row("failed after retries", str(failed), "0", failed == 0),
            Row("mixed", str(seen.mixed), "0", seen.mixed == 0),
            Row("bundles that answered", str(len(seen.bundles)), "3", len(seen.bundles) == 3),
        ]
        for what in dict.fromkeys(what for what, _, _ in self._well):
            worst = max(self._deployment.sampler.worst(*window) for name, *window in self._well if name == what)
            rows.append(
                Row(f"load even, {what}", f"within {worst:.1%}", f"within {UNEVEN_MAX:.0%}", worst <= UNEVEN_MAX)
            )
        for fault in (self._restarted, *self._faults):
            back_s = max(fault.back_s)
            is_back = back_s <= BACK_WITHIN_S
            limit = f"at most {BACK_WITHIN_S:.0f} s"
            rows.append(Row(f"{fault.name}: load even again after", f"{back_s:.1f} s", limit, is_back))
            rows.append(Row(f"{fault.name}: calls waited until", f"{max(fault.noticed_s):.1f} s", "", None))
            rows.append(Row(f"{fault.name}: slowest answer", f"{max(fault.slowest_s):.2f} s", "", None))
        if self._out.answers:
            answers = max(self._out.answers)
            rows.append(Row(f"{self._out.name}: answers in its last 2 s", str(answers), "0", answers == 0))
        stall = f"{self._deployment.machine.longest_s:.2f} s"
        return [*rows, Row("longest time that this machine let a process wait", stall, "", None)]


def _until_quiet(began_s: float, slow: Sequence[float]) -> float:
    """Returns the last of the times before a second without one, or `began_s` if the first second has none."""
    last_s = began_s
    for moment_s in slow:
        if moment_s > last_s + 1.0:
            break
        last_s = moment_s
    return last_s


def _host(replica: Replica) -> int:
    return int(replica.host.rpartition(".")[2])
