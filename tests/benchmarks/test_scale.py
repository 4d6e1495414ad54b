"""The simulation of a replica and the plan of a fleet, against formulas and a plan worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scale.plan import Laws, plan
from benchmarks.scale.simulation import batch_cost, fanned_out, latencies, poisson


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_single_calls_wait_as_long_as_the_formula_for_constant_service_says(load: float) -> None:
    # M/D/1: the mean wait is load / (2 (1 - load)) services (Pollaczek and Khinchine).
    service_s = 0.001
    found = latencies(poisson(load / service_s, 400.0), lambda size: size * service_s, 0.0, largest_batch=1)
    assert found.mean() - service_s == pytest.approx(service_s * load / (2 * (1 - load)), rel=0.05)


def test_grpc_adds_a_time_to_each_call_and_to_each_batch() -> None:
    # Of 0.6 ms a call at once, 0.4 are the work of a batch of 4: 0.2 ms a call. A lone caller sees 1.5 ms, of which 1.0
    # are work and 0.2 those of the call: 0.3 ms a batch.
    cost_s, largest = batch_cost({1: 0.0010, 4: 0.0016}, alone_s=0.0015, at_once_s=0.0006)
    assert largest == 4
    assert cost_s(1) == pytest.approx(0.0015)
    assert cost_s(2) == pytest.approx(0.0012 + 0.0003 + 0.0004)
    assert cost_s(4) == pytest.approx(0.0016 + 0.0003 + 0.0008)


def test_calls_that_wait_are_answered_together() -> None:
    # The first is answered alone from 0 to 10 ms; the three that came meanwhile take 12 ms together.
    cost_s, _ = batch_cost({1: 0.010, 3: 0.012}, alone_s=0.010, at_once_s=0.004)
    found = latencies(np.array([0.0, 0.001, 0.002, 0.009]), cost_s, 0.0005)
    assert found == pytest.approx([0.0105, 0.0215, 0.0205, 0.0135])


def test_no_batch_is_larger_than_the_largest() -> None:
    cost_s, _ = batch_cost({1: 0.010, 3: 0.012}, alone_s=0.010, at_once_s=0.004)
    found = latencies(np.array([0.0, 0.001, 0.002, 0.009]), cost_s, 0.0, largest_batch=2)
    assert found == pytest.approx([0.010, 0.020, 0.019, 0.022])


def test_only_a_call_that_finds_the_replica_idle_wakes_it() -> None:
    # Alone at 0 and again at 30 ms; that of 5 ms finds the replica at work, which ends at 12 ms.
    found = latencies(np.array([0.0, 0.005, 0.030]), lambda size: size * 0.010, 0.0, wake_s=0.002)
    assert found == pytest.approx([0.012, 0.017, 0.012])


def test_a_query_waits_for_its_slowest_shard() -> None:
    arrivals = poisson(300.0, 20.0)
    one, many = (fanned_out(arrivals, shards, lambda size: size * 0.001, 0.0) for shards in (1, 16))
    assert np.all(many >= one - 1e-12)
    assert np.median(many) > np.median(one)


def test_the_smallest_fleet_that_holds_and_carries_it() -> None:
    # Two bundles of 1e9 items of 1,000 bytes are 2e12 bytes; 0.8 x 256 GiB are 2.199e11: 10 shards of 1e8 items.
    laws = Laws(1000.0, 1e-9, 1e-6, 5.0, 1e-11, 1e-3, 2e-4, 100_000_000)
    found = plan(laws, 1e9, 1e6, memory_gib=256, cores=32, utilisation=0.5)
    assert found.shards == 10
    # A search takes 1e-3 + 1e-11 x 1e8 = 2e-3 s: 2,000 cores for each shard, 125 machines with 16 of them busy.
    assert found.replicas == 125
    assert found.ann_cores == pytest.approx(20_000, rel=1e-3)
    assert found.tower_cores == pytest.approx(200.0)
    assert found.memory_gib == pytest.approx(186.3, rel=1e-3)
    assert found.gbit_s == pytest.approx(128.0)  # 1e6 queries x 10 shards x 100 items x 16 bytes
    assert found.open_s == pytest.approx(105.0)


def test_no_shard_is_larger_than_what_was_measured() -> None:
    laws = Laws(1000.0, 1e-9, 1e-6, 5.0, 1e-11, 1e-3, 2e-4, 1_000_000)
    assert plan(laws, 1e7, 1e3, memory_gib=256, cores=32, utilisation=0.5).shards == 10
