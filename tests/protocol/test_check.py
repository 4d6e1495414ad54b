"""The exhaustive check of the swap protocol: properties hold, many states are visited, broken rules are detected."""

from __future__ import annotations

import ast
import inspect
from itertools import permutations
from pathlib import Path
from unittest.mock import Mock

import pytest

from retrieval.store.folder_store import FolderStore
from retrieval.store.live import LivePointer
from tests.protocol.check import SHORT, catch, explore, main
from tests.protocol.mutations import MUTATIONS
from tests.protocol.requests import End, Requests
from tests.protocol.rules import Rules, answer
from tests.protocol.world import promote, roll_back
from two_tower_client.model_agreement import Embed, Outcome, Pin, exchange


def test_every_property_holds_in_every_state_of_the_short_explorations() -> None:
    results = [explore(bounds) for bounds in SHORT]
    assert [(result.bounds.name, result.problem, result.trace) for result in results if result.problem] == []
    # 671,233 states when this was written: a rule that makes the world smaller by mistake would prove less.
    assert sum(result.states for result in results) > 600_000
    # 360,241 and 102,811: requests get answers, and two swaps at once can leave no model that is open everywhere.
    assert sum(result.answered for result in results) > 300_000
    assert sum(result.failed for result in results) > 50_000
    # Within one swap some model is always shared.
    assert results[0].failed == 0


@pytest.mark.parametrize(
    ("rule", "problem", "last"),
    [
        ("drop-old-at-once", "bundle B is dropped without its grace", "reads the pointer"),
        ("drop-running-on-refusal", "bundle A is dropped without its grace", "refuses B"),
        ("never-retry", "not on the live bundle", "ends with A open"),
        ("keep-answering-with-old", "not on the live bundle", "ends with A, B open"),
        ("keep-only-live", "failed request, in the middle of one swap", "not served"),
        ("search-with-newest", "mixed answer: an embedding of b in the index of a", "answer from a"),
        ("no-re-embed", "failed request, although a stayed open everywhere", "not served"),
        ("three-rounds-only", "failed request, although a stayed open everywhere", "not served"),
        ("answer-with-another-model", "failed request, although a stayed open everywhere", "embedding of a"),
    ],
)
def test_notices_a_broken_rule_and_shows_the_way_there(rule: str, problem: str, last: str) -> None:
    result = catch(rule)
    assert problem in result.problem
    assert last in result.trace[-1]


def test_every_mutation_has_its_case_above() -> None:
    assert len(MUTATIONS) == 9


def test_broken_rule_is_an_exit_code_and_a_readable_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--break", "drop-running-on-refusal"]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[-3:] == [
        "1. store          promote: B is live, before it A",
        "2. query tower 1  reads the pointer        open: A",
        "3. query tower 1  refuses B                open: -",
    ]


def test_model_open_everywhere_is_found_where_replicas_have_three_open() -> None:
    # "a" stays open on every replica; before every step, each may also have any two other models open.
    keeping_a = [models for size in (1, 2, 3) for models in permutations("abcd", size) if "a" in models]
    assert len(keeping_a) == 25  # 1 + 3 * 2 + 3 * 6
    requests = Requests(Rules())
    todo = [requests.begin(pin) for pin in ("", "a", "b", "gone")]
    seen, answered, embeds_max = set(todo), 0, 0
    while todo:
        request = todo.pop()
        step = requests.steps[request]
        outcomes: set[Outcome] = {answer(step, models) for models in keeping_a}
        for outcome in outcomes:
            after = requests.advance(request, outcome)
            if isinstance(after, End):
                assert after == End("", ""), requests.histories[request]
                answered += 1
            elif after not in seen:
                seen.add(after)
                todo.append(after)
                embeds_max = max(embeds_max, embeds_until(requests, after))
    assert answered > 100
    # Embeddings with a model that is gone, two models that are not open everywhere, and "a".
    assert embeds_max == 4


def embeds_until(requests: Requests, request: int) -> int:
    """Returns the number of embeddings that a request has needed so far, the current step included.

    Args:
        requests: table of the histories of a request (its steps so far).
        request: number of a history in the table.
    """
    pin, outcomes = requests.histories[request]
    steps = exchange(Pin(pin))
    return sum(isinstance(step, Embed) for step in [next(steps), *map(steps.send, outcomes)])


def test_pointer_moves_as_that_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {name: f"20250101T00000{digit}Z-abcdef" for digit, name in enumerate("ABC")}
    store = FolderStore(tmp_path)
    monkeypatch.setattr(store, "verify", lambda version: Mock(failed_gates=()))
    for version in versions.values():
        store.path(version).mkdir(parents=True)
    pointer: LivePointer | None = None
    for name in "ABCAB":
        pointer = promote(pointer, versions[name])
        assert store.promote(versions[name]) == pointer
    for _ in range(2):
        pointer = roll_back(pointer)
        assert store.roll_back() == pointer


def test_pin_and_last_outcome_play_no_part_in_how_a_request_goes_on() -> None:
    # Histories that differ in these variables alone share a number: see `Requests`.
    body = ast.parse(inspect.getsource(exchange)).body[0]
    assert isinstance(body, ast.FunctionDef)
    first, *rest = body.body[1:]  # without the docstring
    assert "pin" in {node.id for node in ast.walk(first) if isinstance(node, ast.Name)}
    names = [node.id for statement in rest for node in ast.walk(statement) if isinstance(node, ast.Name)]
    assert "pin" not in names
    nodes = list(ast.walk(body))
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.value, ast.Yield)]
    assert [ast.unparse(node.targets[0]) for node in assigned] == ["outcome", "outcome"]
    assert sum(isinstance(node, ast.Yield) for node in nodes) == 2
