"""Callers in a closed loop, who judge every answer of a service over shards."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from benchmarks.shards.reference import Question, Reference
from testbed.services import wait_until
from testbed.shards.bundles import MODEL
from two_tower.ann.v1 import ann_service_pb2 as pb
from two_tower.ann.v1 import ann_service_pb2_grpc as ann_grpc

CALLERS = 3
COMPLETE, PARTIAL, REFUSED = "complete", "partial", "refused"
NONE, FAILED, WRONG = "none", "failed", "wrong"
"""Kinds of answers: right and of all shards; right, and says that shards are missing; refused because shards do not
answer; refused because none does; failed in another way; not what the answer claims to be."""

_REASON = "SHARDS_NOT_ANSWERING"
_EXACT_EVERY = 8
"""Of so many searches, one is exact: an exact scan costs several times as much."""
_TIMEOUT_S = 10.0
_PAUSE_S = 0.05
"""Pause of a caller whose call was refused, as a client that retries makes."""


@dataclass(frozen=True)
class Answer:
    """What became of a call.

    Attributes:
        kind: One of the kinds above.
        version: Bundle that answered; empty if none did.
        began_s: Time at which the call was begun, in seconds of the monotonic clock.
        ended_s: Time at which it ended.
        note: What is wrong, of a failed or wrong answer.
    """

    kind: str
    version: str
    began_s: float
    ended_s: float
    note: str = ""


class Load:
    """Context in which callers search, and judge each answer by the reference of the bundle that it names.

    Attributes:
        answers: What became of each call, in the order in which the calls ended.
    """

    def __init__(self, address: str, references: Mapping[str, Reference]) -> None:
        """Takes the address of the service, and the references by version, which ask the same questions."""
        self._references = references
        self._asking = next(iter(references.values()))
        self._channel = grpc.insecure_channel(address)
        self._stub = ann_grpc.AnnServiceStub(self._channel)
        self._numbers, self._stops = itertools.count(), threading.Event()
        self._judged: dict[tuple[str, Question, float, bytes], str | None] = {}
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CALLERS)]
        self.answers: list[Answer] = []

    def __enter__(self) -> Load:
        """Starts the callers."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the callers after their current calls."""
        self._stops.set()
        for thread in self._threads:
            thread.join(2 * _TIMEOUT_S)
        self._channel.close()

    def count(self) -> Counter[str]:
        """Returns the number of answers of each kind."""
        return Counter(answer.kind for answer in list(self.answers))

    def notes(self) -> list[str]:
        """Returns what is wrong with failed and wrong answers, each once."""
        return list(dict.fromkeys(f"{answer.kind}: {answer.note}" for answer in list(self.answers) if answer.note))

    def wait_for(
        self, condition: Callable[[list[Answer]], bool], what: str, timeout_s: float, start: int | None = None
    ) -> None:
        """Waits until a condition holds of the answers that came after the first `start`; default: from now on.

        Raises:
            PairError: it did not hold in time.
        """
        first = len(self.answers) if start is None else start
        wait_until(lambda: condition(self.answers[first:]), f"{what}; answers so far: {dict(self.count())}", timeout_s)

    def _run(self) -> None:
        while not self._stops.is_set():
            number = next(self._numbers)
            question = Question(number % len(self._asking.queries), number % _EXACT_EVERY == 0)
            answer = self._ask(question)
            self.answers.append(answer)
            if answer.kind in (REFUSED, NONE, FAILED):
                self._stops.wait(_PAUSE_S)

    def _ask(self, question: Question) -> Answer:
        request = pb.SearchItemsRequest(searches=[self._asking.to_search(question)], model_version=MODEL)
        began_s = time.monotonic()
        try:
            response = self._stub.SearchItems(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            coverage = refused_with(error)
            kind = FAILED if coverage is None else REFUSED if coverage > 0.0 else NONE
            return Answer(kind, "", began_s, time.monotonic(), describe(error) if kind == FAILED else "")
        ended_s = time.monotonic()
        fault = self._fault(question, response)
        if fault is not None:
            return Answer(WRONG, response.bundle_version, began_s, ended_s, fault)
        kind = COMPLETE if response.coverage == 1.0 else PARTIAL
        return Answer(kind, response.bundle_version, began_s, ended_s)

    def _fault(self, question: Question, response: pb.SearchItemsResponse) -> str | None:
        reference = self._references.get(response.bundle_version)
        if reference is None:
            return f"it names the bundle {response.bundle_version!r}, which was never live"
        if not response.HasField("coverage"):
            return "it does not say what it covers"
        [result] = response.results
        key = (response.bundle_version, question, response.coverage, result.SerializeToString())
        if key not in self._judged:
            self._judged[key] = reference.fault(question, result, response.coverage)
        return self._judged[key]


def refused_with(error: Any) -> float | None:
    """Returns the share of the items in shards that answer, which a refusal names; None if it was not for shards.

    Such a refusal has the code UNAVAILABLE, and the reason SHARDS_NOT_ANSWERING with the metadata ``coverage`` below 1.
    """
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info) and info.reason == _REASON:
            coverage = float(info.metadata.get("coverage", "nan"))
            return coverage if 0.0 <= coverage < 1.0 else None
    return None


def describe(error: Any) -> str:
    """Returns the code and the message of an error of gRPC in one line."""
    return " ".join(f"{error.code().name}: {error.details()}".split())[:200]
