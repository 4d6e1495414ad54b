"""Some odd inputs to each target, by hypothesis; `make fuzz` tries many more."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st

from tests.fuzz.campaign import try_all
from tests.fuzz.files import file_targets
from tests.fuzz.inputs import Choices, Target
from tests.fuzz.rpcs import rpc_targets
from tests.fuzz.tables import table_targets

NAMES = (
    "EmbedQueries bytes",
    "EmbedQueries requests",
    "SearchItems bytes",
    "SearchItems requests",
    "RecordEvents bytes",
    "RecordEvents requests",
    "GetServingStatus bytes",
    "health bytes",
    "reflection bytes",
    "manifest values",
    "manifest bytes",
    "store",
    "recipe values",
    "recipe bytes",
    "CSV cells",
    "CSV bytes",
    "JSON table",
)

numbers_below = cache(lambda n: st.integers(0, n - 1))


@st.composite
def inputs_of(draw: Any, target: Target) -> Any:
    return target.make(Choices(lambda n: draw(numbers_below(n))))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with rpc_targets(tmp_path_factory.mktemp("rpcs")) as rpcs:
        folder = tmp_path_factory.mktemp("files")
        found = [*rpcs, *file_targets(folder), *table_targets(folder)]
        yield {target.name: target for target in found}


def test_every_target_is_tried(targets: dict[str, Target]) -> None:
    assert tuple(targets) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_odd_inputs_are_answered_or_refused(targets: dict[str, Target], name: str) -> None:
    @hypothesis.settings(
        max_examples=200, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=False
    )
    @hypothesis.given(inputs_of(targets[name]))
    def check(value: Any) -> None:
        targets[name].check(value)

    check()


def test_reports_the_smallest_input_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def check(value: bytes) -> None:
        if 7 in value and len(value) > 2:
            raise ValueError("a 7")

    broken = Target("broken", lambda choices: choices.noise(30), check)
    sound = Target("sound", lambda choices: choices.noise(30), lambda value: None)
    assert try_all([broken, sound], seed=1, minutes=0, examples=600) == 1
    printed = capsys.readouterr().out
    assert "ValueError: a 7\nsmallest input: b'\\x07\\x00\\x00'" in printed.replace(
        "\\x00\\x00\\x07", "\\x07\\x00\\x00"
    )
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("sound")] == ["600"]


def test_campaign_without_a_failure_ends_with_0() -> None:
    assert try_all([Target("sound", lambda choices: choices.below(3), lambda value: None)], 1, 0, examples=10) == 0
