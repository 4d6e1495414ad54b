"""`make check-protocol`: every interleaving of swaps, faults and a request, within bounds; and that it would notice.

The real state machines of the services (`retrieval.serving.bundles.swap_policy`) and of the client
(`two_tower_client.model_agreement`) run in a small world of two query tower replicas, two ANN replicas, one store and
one request. `tests.protocol.world` says what may happen and what is assumed. Every reachable state is visited once.
These properties have to hold:

1. No mixed answer: an embedding is only ever searched in the index of its own model.
2. No failed request while some model stays open, from its beginning to its end, on every replica that gets calls.
   Within one swap, its roll back and failed loads included, but without restarts, no request fails at all.
3. Every replica ends on the live bundle: from every state, whatever order the polls, loads, retries and grace periods
   that are due come in, it stops with the bundles open that the store names, the live one answering.
4. Nothing but a restart or the end of its grace period takes an open bundle away, and never the last one.

Where memory holds one bundle only (``unload_first``), 4 does not apply and 3 asks for the live bundle alone.

``--break RULE`` breaks a rule first, ``--mutations`` each in turn after the check proper: all have to be caught.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.protocol.exploration import GONE, Bounds, Exploration, Result
from tests.protocol.mutations import MUTATIONS, what_breaks
from tests.protocol.world import Rules

NEW_ITEMS_FIRST = {"A": "a", "B": "a", "C": "c"}
NEW_ITEMS_LAST = {"A": "a", "B": "b", "C": "b"}

SHORT = (
    Bounds("one swap", promotes=1, roll_backs=1, refusals=2, again=True, always_shared=True),
    Bounds("start with an empty store", promotes=1, refusals=1, restarts=1, cold=True),
    Bounds("one swap, roll back, restart", promotes=1, roll_backs=1, restarts=1),
    Bounds("two swaps", promotes=2, again=True),
    Bounds("two swaps, the first of new items", promotes=2, models=NEW_ITEMS_FIRST, pins=("", "a", "c", GONE)),
    Bounds("one swap, memory for one bundle", promotes=1, roll_backs=1, restarts=1, unload_first=True),
)
"""Explorations of seconds."""

FULL = (
    *SHORT,
    Bounds("two swaps, roll back", promotes=2, roll_backs=1, again=True),
    Bounds("two swaps, failed load", promotes=2, refusals=1, again=True),
    Bounds("two swaps, restart", promotes=2, restarts=1, again=True),
    Bounds("one swap, one of each", promotes=1, roll_backs=1, refusals=1, restarts=1),
    Bounds("the first of new items, roll back", 2, 1, models=NEW_ITEMS_FIRST, pins=("", "a", "c", GONE)),
    Bounds("the second of new items, roll back", 2, 1, models=NEW_ITEMS_LAST, pins=("", "a", "b", GONE)),
    Bounds("two swaps, memory for one bundle", promotes=2, roll_backs=1, restarts=1, unload_first=True),
)
"""All explorations."""

_PROCESSES_MAX = 2
_ROW = "{:<36} {:>4} {:>4} {:>4} {:>4}  {:>10} {:>12} {:>6}  {}"


def explore(bounds: Bounds, rule: str = "") -> Result:
    """Returns what an exploration finds.

    Args:
        bounds: of it.
        rule: the mutation of the code; empty for the code as it is.
    """
    return Exploration(bounds, MUTATIONS[rule] if rule else Rules()).run()


def catch(rule: str) -> Result:
    """Returns the first short exploration that notices a mutation, or the last one where none does."""
    for bounds in SHORT:
        result = explore(bounds, rule)
        if result.problem:
            break
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 where all properties hold, and all mutations asked for are caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.check", description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="smaller bounds: seconds instead of a minute")
    parser.add_argument("--break", dest="rule", choices=sorted(MUTATIONS), help="break this rule first")
    parser.add_argument("--mutations", action="store_true", help="also break every rule in turn: each must be caught")
    options = parser.parse_args(arguments)
    if options.rule:
        result = catch(options.rule)
        print(f"{options.rule}: {what_breaks(options.rule)}\n")
        print_problem(result)
        return 1 if result.problem else 0
    began = time.monotonic()
    # A process each, so that the memory of one exploration is free before the next begins.
    context = multiprocessing.get_context("spawn")
    workers = min(_PROCESSES_MAX, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        caught = pool.map(catch, MUTATIONS if options.mutations else ())
        results = list(follow(pool.map(explore, SHORT if options.short else FULL)))
        holds = all(not result.problem for result in results)
        print_total(results, time.monotonic() - began)
        for rule, result in zip(MUTATIONS if options.mutations else (), caught, strict=True):
            print(f"\n{'caught' if result.problem else 'NOT CAUGHT'}: {rule}: {what_breaks(rule)}")
            print_problem(result)
            holds = holds and bool(result.problem)
    return 0 if holds else 1


def follow(results: Iterable[Result]) -> Iterator[Result]:
    """Yields the results, and prints a line for each."""
    print("2 query towers, 2 ANN replicas, 1 request; P promotions, B roll backs, F failed loads, R restarts at most\n")
    print(_ROW.format("exploration", "P", "B", "F", "R", "states", "transitions", "s", ""))
    for result in results:
        bounds, verdict = result.bounds, "VIOLATED" if result.problem else "holds"
        counts = (bounds.promotes, bounds.roll_backs, bounds.refusals, bounds.restarts)
        figures = (f"{result.states:,}", f"{result.transitions:,}", f"{result.seconds:.1f}")
        print(_ROW.format(bounds.name, *counts, *figures, verdict), flush=True)
        yield result


def print_total(results: Sequence[Result], seconds: float) -> None:
    """Prints the sums, and what is wrong."""
    figures = (f"{sum(r.states for r in results):,}", f"{sum(r.transitions for r in results):,}", f"{seconds:.1f}")
    verdict = "VIOLATED" if any(result.problem for result in results) else "all hold"
    print(_ROW.format("all", "", "", "", "", *figures, verdict))
    size_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"\nanswered in {sum(r.answered for r in results):,} ways; failed in {sum(r.failed for r in results):,}, each"
    )
    print(f"time with no model that stayed open everywhere; largest process {size_mb:,.0f} MB")
    for result in results:
        if result.problem:
            print_problem(result)


def print_problem(result: Result) -> None:
    """Prints what is wrong, and the shortest way there."""
    if not result.problem:
        print(f"    nothing is wrong in {result.states:,} states, {result.transitions:,} transitions")
        return
    print(f"    {result.problem}")
    print(f"    found in {result.bounds.name!r} after {result.states:,} states; the shortest way there:")
    for position, line in enumerate(result.trace, 1):
        print(f"    {position:>3}. {line}")


if __name__ == "__main__":
    sys.exit(main())
