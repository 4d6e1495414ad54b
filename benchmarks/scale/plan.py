"""Plans a fleet from measured costs: shards, replicas, cores, memory, network, time to publish."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.scale.costs import Costs


@dataclass(frozen=True)
class Laws:
    """How costs grow with the number of items n, fitted to measured catalogues.

    Attributes:
        bytes_an_item: Bytes on disk, and of memory that searches touch, of an item.
        build_s: Coefficient of n log2 n for the time to build, in seconds on one machine of the measured kind.
        open_s, open_base_s: Slope over n and constant of the time to open.
        search_s, search_base_s: Slope over n and constant of the CPU time of a search, when 16 wait at once. It grows
            with n, as the search budget for the same recall does, and as searches that wait share a scan.
        embed_s: CPU time of an `EmbedQueries` with one query, in seconds.
        largest: Number of items of the largest catalogue that was measured; the laws are not known beyond it.
    """

    bytes_an_item: float
    build_s: float
    open_s: float
    open_base_s: float
    search_s: float
    search_base_s: float
    embed_s: float
    largest: int

    def search(self, item_count: float) -> float:
        """Returns the CPU time of a search in seconds."""
        return self.search_base_s + self.search_s * item_count

    def build(self, item_count: float) -> float:
        """Returns the time to build the index in seconds."""
        return self.build_s * item_count * math.log2(item_count)

    def open(self, item_count: float) -> float:
        """Returns the time of a replica to open the bundle in seconds."""
        return self.open_base_s + self.open_s * item_count


def fit(small: Costs, large: Costs, embed_s: float) -> Laws:
    """Returns the laws that two measured catalogues follow exactly."""
    n, m = small.item_count, large.item_count
    search_s = (large.cpu_s[16] - small.cpu_s[16]) / (m - n)
    open_s = (large.open_s - small.open_s) / (m - n)
    return Laws(
        bytes_an_item=sum(large.bytes_an_item.values()),
        build_s=large.build_s / (m * math.log2(m)),
        open_s=open_s,
        open_base_s=small.open_s - open_s * n,
        search_s=search_s,
        search_base_s=small.cpu_s[16] - search_s * n,
        embed_s=embed_s,
        largest=m,
    )


@dataclass(frozen=True)
class Plan:
    """A fleet.

    Attributes:
        shards: Parts of the catalogue, each on machines of its own.
        replicas: Machines for each shard.
        ann_cores: Cores of the ANN service, all shards and replicas together, without headroom.
        tower_cores: Cores of the query tower service, without headroom.
        memory_gib: Memory of one replica of a shard, with two bundles open.
        gbit_s: Traffic from the shards to what merges, in Gbit/s.
        build_s, open_s: Time to build the index of a shard, and of a replica to open it, in seconds.
    """

    shards: int
    replicas: int
    ann_cores: float
    tower_cores: float
    memory_gib: float
    gbit_s: float
    build_s: float
    open_s: float


def plan(
    laws: Laws, item_count: float, queries_s: float, *, memory_gib: float, cores: int, utilisation: float, k: int = 100
) -> Plan:
    """Returns the smallest fleet for a catalogue and a load, of shards that are no larger than what was measured.

    Args:
        laws: measured laws.
        item_count: number of items.
        queries_s: queries per second.
        memory_gib: memory of a machine.
        cores: cores of a machine.
        utilisation: share of its cores that a machine may be busy, 0 to 1.
        k: items of an answer; an id is taken as 12 bytes, a score as 4.
    """
    by_memory = math.ceil(2 * item_count * laws.bytes_an_item / (0.8 * memory_gib * (1 << 30)))
    shards = max(by_memory, math.ceil(item_count / laws.largest))
    items = item_count / shards
    core_s = queries_s * laws.search(items)
    replicas = max(2, math.ceil(core_s / (cores * utilisation)))
    return Plan(
        shards=shards,
        replicas=replicas,
        ann_cores=shards * core_s,
        tower_cores=queries_s * laws.embed_s,
        memory_gib=2 * items * laws.bytes_an_item / (1 << 30),
        gbit_s=queries_s * shards * k * 16 * 8 / 1e9,
        build_s=laws.build(items),
        open_s=laws.open(items),
    )
