"""The workers of TF_CONFIG: which one this process is, and waiting for the others."""

from __future__ import annotations

import json
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.trainer.world import command
from trainer.errors import RunError
from trainer.training.cluster import Cluster, check_wait, read_cluster


def config(tasks: dict[str, Any], kind: str = "worker", index: Any = 0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": tasks, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TF_CONFIG": ""},
        {"TF_CONFIG": "{}"},
        config({}),
        config({"worker": ["a:1"]}),
        config({"chief": ["a:1"]}, "chief"),
        {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'},
    ],
)
def test_a_process_without_others_trains_alone(environment: dict[str, str]) -> None:
    assert read_cluster(environment) is None


def test_the_first_worker_is_the_chief() -> None:
    tasks = {"worker": ["a:1", "b:2"]}
    assert read_cluster(config(tasks, index=0)) == Cluster(("a:1", "b:2"), 0)
    other = read_cluster(config(tasks, index=1))
    assert (other.index, other.is_chief, other.name(0)) == (1, False, "worker 0 (a:1)")


def test_a_task_of_type_chief_comes_before_the_workers() -> None:
    tasks = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    found = read_cluster(config(tasks, index=1))
    assert (found.addresses, found.index) == (("a:1", "b:2", "c:3"), 2)
    assert (found.index_of("chief", 0), found.index_of("worker", 1)) == (0, 2)
    assert read_cluster(config(tasks, kind="chief")).is_chief


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{"}, "which names no worker"),
        (config({"worker": ["a:1", "b:2"]}, index=2), "which names no worker"),
        (config({"worker": ["a:1", "b:2"]}, kind="chief"), "which names no worker"),
        (config({"worker": ["a:1"]}, index=1), "which names no worker"),
        (config({"worker": ["a:1", "b:2"]}, index=-1), "the index of the task is -1, expected 0, 1 and so on"),
        (config({"worker": ["a:1", "b:2"]}, index=0.9), r"the index of the task is 0\.9"),
        (config({"worker": ["a:1", "b:2"]}, index=True), "the index of the task is True"),
        ({"TF_CONFIG": '{"task": {"type": "worker", "index": 0}}'}, "it has a task, but no cluster"),
        (config({"worker": "a:1"}), "worker is 'a:1', which is no list of addresses"),
        (config({"worker": ["a:1", "b:2", "a:1"]}), "lists a:1 twice"),
        (config({"chief": ["a:1"], "worker": ["a:1"]}), "lists a:1 twice"),
        (config({"worker": ["a:1", "b:2"], "ps": ["c:3"]}), "has tasks of type ps; only chief and worker train"),
    ],
)
def test_what_cannot_be_understood_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=message):
        read_cluster(environment)


@pytest.mark.parametrize("port", ["99999", "-1", "0", "", "2_2", "x", "\u0662"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_does_not_exist_is_refused_whoever_has_it(port: str, index: int) -> None:
    with pytest.raises(RunError, match=r"has the address 'b:.*', whose port is not 1 to 65535; write HOST:PORT"):
        read_cluster(config({"worker": ["a:1", f"b:{port}"]}, index=index))


@pytest.mark.parametrize("host", ["", "a..b", "a" * 64, "\ud800", "a b", "a\0b"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_host_that_is_no_name_is_refused_whoever_has_it(host: str, index: int) -> None:
    with pytest.raises(RunError, match=r"has the address '.*:2222', whose host is no name; write HOST:PORT"):
        read_cluster(config({"worker": ["a:1", f"{host}:2222"]}, index=index))


@pytest.mark.parametrize("address", ["[::1]:2222", "worker-1.a.example.:1", "bücher.example:65535"])
def test_addresses_of_all_kinds_are_read(address: str) -> None:
    assert read_cluster(config({"worker": ["a:1", address]})).addresses[1] == address


def test_a_time_to_wait_is_finite() -> None:
    for wait_s in (0.0, 600.0):
        check_wait(wait_s)
    for wait_s in (math.nan, math.inf, -1.0):
        with pytest.raises(RunError, match=f"^--worker-wait-s is {wait_s}, expected a number of seconds, 0 or more$"):
            check_wait(wait_s)


@pytest.mark.parametrize("wait_s", ["nan", "inf", "-1.0"])
def test_train_refuses_a_time_to_wait_that_is_none(wait_s: str) -> None:
    with pytest.raises(RunError, match=f"--worker-wait-s is {wait_s}"):
        command("train", "movielens_100k", f"--worker-wait-s={wait_s}")


def addresses(count: int) -> tuple[str, ...]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return found


def test_workers_wait_for_each_other() -> None:
    three = addresses(3)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(Cluster(three, index).meet, 60) for index in range(3)]:
            done.result()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_workers_with_addresses_of_ipv6_wait_for_each_other() -> None:
    two = tuple(each.replace("127.0.0.1", "[::1]") for each in addresses(2))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(Cluster(two, index).meet, 60) for index in range(2)]:
            done.result()


def test_a_worker_that_does_not_come_is_named() -> None:
    three = addresses(3)
    with ThreadPoolExecutor(2) as pool:
        two = [pool.submit(Cluster(three, index).meet, 3) for index in (0, 2)]
        for done in two:
            with pytest.raises(RunError, match=rf"^worker 1 \({three[1]}\) did not come within 3 s"):
                done.result()


def test_a_worker_of_other_workers_does_not_count() -> None:
    two, other = addresses(2), addresses(1)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(Cluster(two, 0).meet, 2), pool.submit(Cluster((*other, two[1]), 1).meet, 2)]
        with pytest.raises(RunError, match=r"^worker 1 .* did not come"):
            both[0].result()
        with pytest.raises(RunError, match=r"^worker 0 .* did not come"):
            both[1].result()


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("", 0)) as taken:
        two = (f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1")
        with pytest.raises(RunError, match=r"cannot listen on port .* of worker 0"):
            Cluster(two, 0).meet(1)
