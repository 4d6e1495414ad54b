"""The table of the attack, and one attack on a real service."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attack.calls import OK, REFUSED, Calls
from benchmarks.attack.requests import Requests
from benchmarks.attack.rows import Row, broken, exit_code, share, tail_limit, to_table
from benchmarks.attack.services import ANN, HEALTH, SEARCH, Setup, call
from benchmarks.attack.streams import Silence, SilentCallers, frame, headers
from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT
from tests.worlds import wait_for, write_bundle


def row(figure: float, limit: float, *, is_floor: bool = False) -> Row:
    return Row("attack", "promise", figure, limit, "ms", is_floor, "note")


@pytest.mark.parametrize(
    ("figure", "limit", "is_floor", "is_kept"),
    [
        (50.0, 50.0, False, True),
        (50.1, 50.0, False, False),
        (95.0, 95.0, True, True),
        (94.9, 95.0, True, False),
        (math.inf, 50.0, False, False),
        (math.inf, 95.0, True, False),  # no figure is a miss, whatever the bound
        (math.nan, 50.0, False, False),
    ],
)
def test_a_promise_is_kept_up_to_its_limit_and_never_without_a_figure(
    figure: float, limit: float, is_floor: bool, is_kept: bool
) -> None:
    assert row(figure, limit, is_floor=is_floor).is_kept is is_kept


def test_exit_code_is_zero_only_if_every_promise_is_kept_and_there_is_one() -> None:
    assert exit_code([row(1.0, 2.0), row(2.0, 2.0)]) == 0
    assert exit_code([row(1.0, 2.0), row(3.0, 2.0)]) == 1
    assert exit_code([]) == 1


def test_table_has_a_line_for_each_promise_and_a_count() -> None:
    lines = to_table([row(1.0, 2.0), row(math.inf, 1234.0), row(90.0, 95.0, is_floor=True)]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:5]]
    assert cells[0] == ["attack", "promise", "figure", "limit", "verdict", "note"]
    assert cells[2] == ["attack", "promise", "1 ms", "at most 2 ms", "ok", "note"]
    assert cells[3] == ["attack", "promise", "none", "at most 1,234 ms", "MISS", "note"]
    assert cells[4] == ["attack", "promise", "90 ms", "at least 95 ms", "MISS", "note"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == "1 of 3 promises kept, 2 missed"


def test_a_missing_figure_is_null_in_json() -> None:
    written = json.loads(json.dumps(row(math.inf, 2.0).to_json(), allow_nan=False))
    assert (written["figure"], written["kept"], written["bound"]) == (None, False, "at most")


def test_an_attack_that_cannot_be_finished_is_a_miss_that_names_the_error() -> None:
    made = broken("cpu", OSError("no\nmore | ports"))
    assert not made.is_kept
    assert made.note == "OSError: no more / ports"


def test_limits_and_shares() -> None:
    assert tail_limit(100.0, 1.5, 5.0) == 150.0
    assert tail_limit(2.0, 1.5, 5.0) == 7.0  # 1.5 times 2 ms is within the noise
    assert share(19.0, 20.0) == 95.0
    assert math.isnan(share(1.0, 0.0))


def test_calls_count_as_in_time_by_code_and_latency() -> None:
    # Latencies of 100, 400 and 10 ms at a deadline of 300 ms; the third is refused.
    calls = Calls(np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.9, 1.01]), np.array([OK, OK, REFUSED]), 0.3, np.zeros(1))
    assert calls.in_time.tolist() == [True, False, False]
    assert calls.goodput(2.0) == 0.5
    assert calls.offered == 2.0  # three beginnings within one second are two intervals
    assert calls.percentile_ms(50, REFUSED) == pytest.approx(10.0)
    assert Calls.joined([calls, calls]).goodput(2.0) == 1.0


def test_frames_and_headers_are_those_of_the_rfcs() -> None:
    # RFC 9113, section 4.1: length, type, flags and stream in 24, 8, 8 and 32 bits.
    assert frame(0, 1, 3, b"ab") == b"\x00\x00\x02\x00\x01\x00\x00\x00\x03ab"
    block = headers("/s/m", "localhost:1", "t" * 130)
    assert block.startswith(b"\x00\x07:method\x04POST\x00\x07:scheme\x04http")
    # RFC 7541, section 5.1: 137 bytes ("Bearer " and 130) do not fit 7 bits, so 127 and then 137 - 127 = 10.
    assert b"\x0dauthorization\x7f\x0aBearer ttt" in block


def test_silent_streams_reach_a_real_service_and_are_counted(store: FolderStore, tmp_path: Path) -> None:
    write_bundle(store)
    setup = Setup(store.root, ROOT, tmp_path / "logs", Requests(store), is_full=False, pins=False)
    with setup.serving(ANN) as replica:
        assert call(replica.address, SEARCH, setup.requests.searches(1)[0], 5.0, setup.metadata) == "OK"
        assert call(replica.address, SEARCH, b"", 5.0, ()) == "UNAUTHENTICATED"
        with SilentCallers(Silence(replica.address, [SEARCH], 3, 2, setup.token)) as silent:
            assert silent.opened == 3
        wait_for(lambda: call(replica.address, HEALTH, b"", 1.0, ()) == "OK", "health answers after the attack")
