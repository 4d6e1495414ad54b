"""Nodes of the cluster are killed under load, again and again: what callers see, and how long until all is well."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.attack.rows import Row
from benchmarks.shards.load import COMPLETE, FAILED, NONE, PARTIAL, REFUSED, WRONG, Answer, Load
from benchmarks.shards.reference import Reference
from testbed.shards.cluster import Cluster

_NOTICED_S, _RECOVERED_S = 60.0, 300.0
_MEDIAN_LIMIT_S, _LARGEST_LIMIT_S = 30.0, 120.0
_CALM = 50
"""Complete answers in a row after which all is well again."""


@dataclass
class Kills:
    """What nodes that were killed did.

    Attributes:
        away_s: For each kill, time from it until the last answer that was not complete, in seconds.
        kinds: Number of answers by kind.
        notes: What was wrong with answers.
    """

    away_s: list[float] = field(default_factory=list[float])
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list[str])


def kill(
    address: str, references: Mapping[str, Reference], cluster: Cluster, count: int, addresses: Iterator[str]
) -> Kills:
    """Kills nodes under load, one after the other, each after the last has been made good for.

    Every other time all processes of the node are killed at once, else one after the other. The shards have to be open
    again on the nodes that are left; then a node with a new address joins, as an autoscaler would add it.

    Args:
        address: address of the service.
        references: right answers of the live bundle, by version.
        cluster: cluster; each node has room for half of the shards.
        count: number of nodes to kill.
        addresses: new addresses for nodes.

    Raises:
        PairError: the answers did not become incomplete, or complete again, in time.
    """
    found, generator = Kills(), random.Random(5)
    with Load(address, references) as load:
        for number in range(count):
            load.wait_for(_is_calm, "complete answers", _RECOVERED_S)
            with_actors = [node for node in cluster.nodes if cluster.actors(node)]
            node = generator.choice(with_actors)
            actors = len(cluster.actors(node))
            killed_s, start = time.monotonic(), len(load.answers)
            (cluster.cut_power if number % 2 else cluster.remove)(node)
            load.wait_for(_is_away, "a node that was killed to be missed", _NOTICED_S, start)
            load.wait_for(_is_calm, "complete answers after a node was killed", _RECOVERED_S, start)
            away_s = max(a.ended_s for a in load.answers[start:] if a.kind != COMPLETE) - killed_s
            found.away_s.append(away_s)
            cluster.add(next(addresses))
            print(f"kill {number + 1}: node with {actors} shards, complete after {away_s:.1f} s", file=sys.stderr)
    found.kinds, found.notes = load.count(), load.notes()
    return found


def judge(name: str, kills: Kills, planned: int, allows_partial: bool) -> Iterator[Row]:
    """Yields the rows of nodes that were killed.

    Args:
        name: name of the part.
        kills: what was found.
        planned: number of nodes that should have been killed.
        allows_partial: whether the service may answer in part.
    """
    kinds, expected = kills.kinds, PARTIAL if allows_partial else REFUSED
    unexpected = kinds[FAILED] + (kinds[REFUSED] if allows_partial else kinds[PARTIAL])
    seen = f"{kinds[COMPLETE]:,} complete, {kinds[PARTIAL]:,} partial, {kinds[REFUSED]:,} refused"
    if kinds[NONE]:
        seen += f", {kinds[NONE]:,} refused because no shard answered"
    fault = f"; {kills.notes[0]}" if kills.notes else ""
    yield Row(name, "kills that were missed by answers, and made good for", len(kills.away_s), planned, "", True)
    yield Row(name, "answers that are not what they say", kinds[WRONG], 0, "", note=seen + fault)
    yield Row(name, f"answers neither complete nor {expected}", unexpected, 0, "", note=fault.removeprefix("; "))
    yield Row(name, f"answers that are {expected} and say so", kinds[expected], planned, "", True)
    away_s = kills.away_s or [float("nan")]
    yield Row(name, "time until complete again, median", float(np.median(away_s)), _MEDIAN_LIMIT_S, "s")
    yield Row(name, "time until complete again, longest", max(away_s), _LARGEST_LIMIT_S, "s")


def _is_calm(answers: list[Answer]) -> bool:
    return len(answers) >= _CALM and all(answer.kind == COMPLETE for answer in answers[-_CALM:])


def _is_away(answers: list[Answer]) -> bool:
    return any(answer.kind != COMPLETE for answer in answers)
