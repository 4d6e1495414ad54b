"""Log lines of calls, by outcome: failed calls within a budget, answered calls by a share."""

from __future__ import annotations

import random
import time
from typing import Any

import structlog

from retrieval.serving.answering.call import Call
from retrieval.serving.answering.errors import InvalidRequest, ServiceError, UnknownItem
from retrieval.serving.answering.headers import Headers
from retrieval.serving.runtime.log_budget import LogBudget

_OUR_FAULT = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_LONGEST_FIELD = 80

_log = structlog.get_logger("calls")


class CallLog:
    """Writes the lines of the calls of a server. Used by one event loop.

    A failed call is a line: error for a bug, with its traceback; warning if the service could not answer in time; info
    if the request was at fault, or its caller left. The lines of a method and a code have a budget
    (`retrieval.serving.runtime.log_budget`). Lines beyond it are counted, and the counts are logged every ten seconds.
    So no failure is lost without a count, and no flood of failures fills a disk.

    Lines never have values that a request contains, only field paths.
    """

    def __init__(self, share: float) -> None:
        """Starts without failures.

        Args:
            share: share of the answered calls that are logged, 0 to 1.
        """
        self.share = share
        self._budgets: dict[tuple[str, str], LogBudget] = {}

    def write(
        self, method: str, code: str, headers: Headers, caller: str, call: Call | None, error: Exception | None
    ) -> None:
        """Logs a call that has ended, or counts it if the budget of its method and code is spent.

        Args:
            method: name of the method.
            code: name of the code that the caller saw, such as ``"OK"``.
            headers: headers of the call.
            caller: name of the caller; empty if the call has no valid token.
            call: the call; None if its message was not received.
            error: why there is no response; None if there is one, or the caller has left.
        """
        if code == "OK":
            if random.random() < self.share:
                _log.info("call answered", **_fields(method, code, headers, caller, call))
            return
        now = time.monotonic()
        budget = self._budgets.get((method, code))
        if budget is None:
            budget = self._budgets[method, code] = LogBudget(now)
        if not budget.spend(now):
            return
        fields = _fields(method, code, headers, caller, call) | _describe(error)
        if error is not None and not isinstance(error, ServiceError):
            _log.error("call failed unexpectedly", **fields, exc_info=error)
        elif code in _OUR_FAULT:
            _log.warning("call failed", **fields)
        else:
            _log.info("call failed", **fields)

    def summarise(self, *, at_once: bool = False) -> None:
        """Logs how many failed calls have no line of their own, if that is due. To be called every second or so.

        Args:
            at_once: whether to log it although it is not due, because the service stops.
        """
        now = time.monotonic()
        for (method, code), budget in self._budgets.items():
            left_out = budget.take_left_out(now, at_once=at_once)
            if left_out:
                _log.warning("failed calls without a line of their own", method=method, code=code, count=left_out)


def _fields(method: str, code: str, headers: Headers, caller: str, call: Call | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"method": method, "code": code, "request_id": headers.request_id, "caller": caller}
    if trace_id := headers.trace_id:
        fields["trace_id"] = trace_id
    if call is not None:
        fields["request_bytes"] = len(call.body)
        if call.started_at:
            fields["queue_s"] = round(call.started_at - call.received_at, 6)
            fields["work_s"] = round(call.work_s, 6)
        if call.bundle_version:
            fields["bundle_version"] = call.bundle_version
    return fields


def _describe(error: Exception | None) -> dict[str, str]:
    """Returns the reason of an error, and its message or the path of its first field.

    The messages of InvalidRequest and UnknownItem repeat values of the request, which are not logged.
    """
    if isinstance(error, InvalidRequest):
        return {"field": error.violations[0][0][:_LONGEST_FIELD]}
    if not isinstance(error, ServiceError):
        return {}
    message = {} if isinstance(error, UnknownItem) else {"message": str(error)}
    return {"reason": error.reason, **message}
