"""`make check-protocol`: checks every interleaving of swaps, faults and a request, within bounds.

The real state machines of the services (`retrieval.serving.bundles.swap_policy`) and of the client
(`two_tower_client.model_agreement`) run in a small world of two query tower replicas, two ANN replicas, one store and
one request. `tests.protocol.world` defines the possible events and the assumptions. Every reachable state is visited
once. The properties that have to hold:

1. An embedding is only searched in the index of its own model.
2. No request fails if some model is open, from the beginning of the request to its end, on every replica that gets
   calls. During one swap with roll back and failed loads, but without restarts, no request fails at all.
3. Every replica settles on the live bundle: from every state, in whatever order the due polls, loads, retries and grace
   periods occur, it ends with the bundles open that the store names, and answers with the live one.
4. An open bundle is dropped only by a restart or at the end of its grace period, and the last one never.

If memory holds one bundle only (``unload_first``), 4 does not apply, and 3 requires only the live bundle to be open.

``--break RULE`` checks the code with one rule broken. ``--mutations`` also breaks each rule in turn after the check of
the real code; every broken rule has to be detected.
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

from tests.protocol.bounds import GONE, Bounds, Result
from tests.protocol.exploration import Exploration
from tests.protocol.mutations import MUTATIONS, what_breaks
from tests.protocol.rules import Rules

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
"""Bounds of the explorations that take seconds."""

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
"""Bounds of all explorations."""

_PROCESSES_MAX = 2
_ROW = "{:<36} {:>4} {:>4} {:>4} {:>4}  {:>10} {:>12} {:>6}  {}"


def explore(bounds: Bounds, rule: str = "") -> Result:
    """Runs an exploration, and returns its result.

    Args:
        bounds: bounds of the exploration.
        rule: name of the mutation to apply; empty: the real code is checked.
    """
    return Exploration(bounds, MUTATIONS[rule] if rule else Rules()).run()


def catch(rule: str) -> Result:
    """Runs the short explorations with a mutation, and returns the first result with a violation, else the last result.

    Args:
        rule: name of the mutation.
    """
    for bounds in SHORT:
        result = explore(bounds, rule)
        if result.problem:
            break
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check, and returns the exit code: 0 if all properties hold and every requested mutation is detected.

    Args:
        arguments: arguments of the command. Default: those of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.check", description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="use smaller bounds, to take seconds instead of a minute")
    parser.add_argument("--break", dest="rule", choices=sorted(MUTATIONS), help="check the code with this rule broken")
    parser.add_argument("--mutations", action="store_true", help="also check that every broken rule is detected")
    options = parser.parse_args(arguments)
    if options.rule:
        result = catch(options.rule)
        print(f"{options.rule}: {what_breaks(options.rule)}\n")
        print_problem(result)
        return 1 if result.problem else 0
    began = time.monotonic()
    # Each exploration has its own process, which frees its memory before the next one begins.
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
    """Yields the results unchanged, and prints a line for each."""
    print("2 query towers, 2 ANN replicas, 1 request; P promotions, B roll backs, F failed loads, R restarts at most\n")
    print(_ROW.format("exploration", "P", "B", "F", "R", "states", "transitions", "s", ""))
    for result in results:
        bounds, verdict = result.bounds, "VIOLATED" if result.problem else "holds"
        counts = (bounds.promotes, bounds.roll_backs, bounds.refusals, bounds.restarts)
        figures = (f"{result.states:,}", f"{result.transitions:,}", f"{result.seconds:.1f}")
        print(_ROW.format(bounds.name, *counts, *figures, verdict), flush=True)
        yield result


def print_total(results: Sequence[Result], seconds: float) -> None:
    """Prints the sums over all results, and each violation.

    Args:
        results: results of the explorations.
        seconds: duration of the whole check, in seconds.
    """
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
    """Prints the violated property of a result, and the shortest path to the violation."""
    if not result.problem:
        print(f"    nothing is wrong in {result.states:,} states, {result.transitions:,} transitions")
        return
    print(f"    {result.problem}")
    print(f"    found in {result.bounds.name!r} after {result.states:,} states; the shortest way there:")
    for position, line in enumerate(result.trace, 1):
        print(f"    {position:>3}. {line}")


if __name__ == "__main__":
    sys.exit(main())
