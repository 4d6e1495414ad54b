"""The states of the one request that the protocol check models, stored as numbers, and how the request ends.

A state is the history of the request so far: the model that it is pinned to, then the outcome of each step. This is not
a user's history of items.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import NamedTuple

from tests.protocol.rules import Rules, series
from two_tower_client import model_agreement
from two_tower_client.model_agreement import Embedded, Outcome, Pin, Searched, Step


class End(NamedTuple):
    """The end of a request.

    Attributes:
        failure: Reason of the failure; empty if the request was answered.
        mixed: Models of the embedding and of the index, in words, if they differ; else empty.
    """

    failure: str
    mixed: str


class Requests:
    """Table of the histories of a request, each stored under a number.

    A history is the pin of the request, then the outcome of every step so far. Histories after which the client's
    generator is at the same line with equal variables have the same future, so they share a number.

    Attributes:
        histories: First history that was found for each number: its pin, and the outcomes of its steps.
        steps: Next step of the request, for each number.
    """

    def __init__(self, rules: Rules) -> None:
        """Makes a table without histories.

        Args:
            rules: code under check.
        """
        self._rules = rules
        self.histories: list[tuple[str, tuple[Outcome, ...]]] = []
        self.steps: list[Step] = []
        self._numbers: dict[object, int] = {}
        self.begin = cache(self._begin)
        self.advance = cache(self._advance)

    def _begin(self, pin: str) -> int:
        request = self._add(pin, ())
        if isinstance(request, End):
            raise TypeError(f"a request ended before its first step: {request}")
        return request

    def _advance(self, request: int, outcome: Outcome) -> int | End:
        """Returns the number of a history after one more step, or the end of the request.

        Args:
            request: number of the history so far.
            outcome: outcome of its next step.
        """
        pin, past = self.histories[request]
        embedded = [o.model_version for o in past if isinstance(o, Embedded)]
        after = self._add(pin, (*past, outcome))
        if isinstance(after, End) and not after.failure and isinstance(outcome, Searched):
            mixed = embedded[-1:] != [outcome.model_version]
            return End("", f"an embedding of {series(embedded[-1:])} in the index of {outcome.model_version}" * mixed)
        return after

    def _add(self, pin: str, outcomes: tuple[Outcome, ...]) -> int | End:
        exchange = self._rules.exchange(Pin(pin))
        try:
            step = next(exchange)
            for outcome in outcomes:
                step = exchange.send(outcome)
        except StopIteration:
            return End("", "")
        except Exception as error:
            return End(f"{type(error).__name__}: {error}", "")
        known = self._numbers.setdefault(_standing(exchange, step, pin, outcomes), len(self.steps))
        if known == len(self.steps):
            self.histories.append((pin, outcomes))
            self.steps.append(step)
        return known


def _standing(exchange: model_agreement.Exchange, step: Step, pin: str, outcomes: tuple[Outcome, ...]) -> object:
    # The pin is only read at the start, and the last outcome is overwritten by the next one, so both are left out.
    variables = {k: v for k, v in inspect.getgeneratorlocals(exchange).items() if k not in ("pin", "outcome")}
    if exchange.gi_code is not model_agreement.exchange.__code__:
        return pin, outcomes  # a mutation, whose variables may hold anything
    embedded = [o.model_version for o in outcomes if isinstance(o, Embedded)]
    return exchange.gi_frame.f_lasti, step, tuple(embedded[-1:]), repr(variables)
