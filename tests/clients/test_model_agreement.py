"""Model agreement, for every small set of replicas and every series of swaps that keeps one model open."""

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations_with_replacement, permutations, product
from types import ModuleType

import pytest

from two_tower_client import errors, model_agreement
from two_tower_client.errors import ModelNotServed, ServerError
from two_tower_client.model_agreement import Embed, Embedded, NotServed, Outcome, Pin, Search, Searched, Step, exchange

Trace = list[tuple[Step, Outcome]]

# Open models of one replica, the live one first: (a,), (b,), (c,), (a, b), (b, a), ... : 3 + 6 = 9.
OPEN_SETS = [*permutations("abc", 1), *permutations("abc", 2)]


def paths(pin: str, answers: Callable[[Step], Iterable[Outcome]]) -> Iterator[tuple[Trace, Pin | ModelNotServed]]:
    """Yields every possible trace of a request, each step with one of its `answers`, and its end: pin or error."""
    pending: list[tuple[Outcome, ...]] = [()]
    while pending:
        past = pending.pop()
        machine, trace = exchange(Pin(pin)), []
        try:
            step = next(machine)
            for outcome in past:
                trace.append((step, outcome))
                step = machine.send(outcome)
        except StopIteration as done:
            yield trace, done.value
        except ModelNotServed as error:
            yield trace, error
        else:
            pending += [(*past, outcome) for outcome in answers(step)]


def answer(step: Step, models: tuple[str, ...]) -> Outcome:
    """Returns the answer of a replica with `models` open."""
    if step.model_version and step.model_version not in models:
        return NotServed(models)
    if isinstance(step, Embed):
        return Embedded(step.model_version or models[0])
    return Searched(step.model_version, models[0])


def check_spaces(trace: Trace) -> None:
    """Checks that each search names the model of the last embeddings, and the number of steps."""
    embedded = None
    for step, outcome in trace:
        if isinstance(outcome, Embedded):
            embedded = outcome.model_version
        if isinstance(step, Search):
            assert step.model_version == embedded
    assert sum(isinstance(step, Embed) for step, _ in trace) <= 3
    assert sum(isinstance(step, Search) for step, _ in trace) <= 3


def test_never_mixes_models_and_always_finds_a_model_that_is_open_everywhere() -> None:
    # 45 pairs of query replicas x 45 pairs of ANN replicas x 5 pins. The order of a pair does not matter, since each
    # step may reach either replica. "x" is a model that no replica has open.
    pairs = list(combinations_with_replacement(OPEN_SETS, 2))
    endings = {"answered": 0, "no shared model": 0}
    for query_replicas, ann_replicas, pin in product(pairs, pairs, ["", "a", "b", "c", "x"]):
        shared = set.intersection(*map(set, (*query_replicas, *ann_replicas)))

        def answers(step: Step, query_replicas=query_replicas, ann_replicas=ann_replicas) -> set[Outcome]:
            return {answer(step, models) for models in (query_replicas if isinstance(step, Embed) else ann_replicas)}

        for trace, end in paths(pin, answers):
            check_spaces(trace)
            if isinstance(end, Pin):
                endings["answered"] += 1
                last = trace[-1][1]
                assert isinstance(last, Searched)
                assert end == Pin(last.newest_model_version)
            else:
                endings["no shared model"] += 1
                assert not shared, (query_replicas, ann_replicas, pin, trace)
    assert min(endings.values()) > 1_000


@pytest.mark.parametrize("pin", ["", "a", "b", "c", "x"])
def test_finds_a_model_that_stays_open_while_all_others_are_swapped(pin: str) -> None:
    # "a" stays open at every replica. Before each step, a replica may open, close and promote any other model.
    keeping_a = [models for models in OPEN_SETS if "a" in models]
    assert keeping_a == [("a",), ("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]

    ends = 0
    for trace, end in paths(pin, lambda step: {answer(step, models) for models in keeping_a}):
        check_spaces(trace)
        assert isinstance(end, Pin), trace
        ends += 1
    # With pin "a" no replica refuses, and three models may be reported as the newest.
    assert ends >= 3


def test_takes_one_embed_and_one_search_when_all_replicas_agree() -> None:
    for models, pin in product(OPEN_SETS, ["", "a", "b", "c"]):
        if pin and pin not in models:
            continue
        for trace, end in paths(pin, lambda step, models=models: [answer(step, models)]):
            assert [type(step) for step, _ in trace] == [Embed, Search]
            assert end == Pin(models[0])


def drive(pin: str, *outcomes: Outcome) -> list[Step]:
    """Returns the first step, and the next step after each outcome."""
    machine = exchange(Pin(pin))
    return [next(machine), *[machine.send(outcome) for outcome in outcomes]]


def test_embeds_with_the_model_that_the_ann_service_reported_last() -> None:
    assert drive("m2") == [Embed("m2")]
    assert drive("") == [Embed("")]


def test_searches_with_the_model_that_the_embedding_names() -> None:
    assert drive("", Embedded("m1")) == [Embed(""), Search("m1")]


def test_embeds_again_with_the_live_model_of_the_query_tower() -> None:
    assert drive("m3", NotServed(("m2", "m1"))) == [Embed("m3"), Embed("m2")]


def test_embeds_again_with_the_live_model_of_the_ann_service() -> None:
    assert drive("", Embedded("m1"), NotServed(("m3", "m2"))) == [Embed(""), Search("m1"), Embed("m3")]


def test_prefers_a_model_that_both_services_listed() -> None:
    # The query tower has m2 and m1, the ANN service m3 and m1: m1.
    steps = drive("m4", NotServed(("m2", "m1")), Embedded("m2"), NotServed(("m3", "m1")))
    assert steps == [Embed("m4"), Embed("m2"), Search("m2"), Embed("m1")]


def test_reuses_the_last_embeddings() -> None:
    # Replicas differ: m1 was refused by one ANN replica, m2 by the query tower. The embeddings of m1 are still there.
    steps = drive("", Embedded("m1"), NotServed(("m2",)), NotServed(("m1",)), NotServed(("m1",)))
    assert steps == [Embed(""), Search("m1"), Embed("m2"), Embed("m2"), Search("m1")]


def test_names_the_models_of_both_services_when_they_share_none() -> None:
    (end,) = {
        str(end) for _, end in paths("", lambda step: [answer(step, ("a",) if isinstance(step, Embed) else ("b",))])
    }
    assert "open at the query tower: a" in end
    assert "open at the ANN service: b" in end


def test_gives_up_on_a_replica_that_lists_nothing() -> None:
    with pytest.raises(ModelNotServed):
        drive("m1", NotServed(()))


def test_does_not_retry_a_model_that_a_replica_refuses_and_lists() -> None:
    # It opened m1 between the refusal and the list.
    assert drive("m1", NotServed(("m1", "m2"))) == [Embed("m1"), Embed("m2")]


@pytest.mark.parametrize(
    "outcomes", [[Embedded("")], [Embedded("m2")], [Embedded("m1"), Searched("m2", "m2")]], ids=str
)
def test_drops_an_answer_that_breaks_the_contract(outcomes: list[Outcome]) -> None:
    with pytest.raises(ServerError):
        drive("m1", *outcomes)


def test_imports_no_network_clock_or_threads() -> None:
    def imports(module: ModuleType) -> set[str]:
        tree = ast.parse(inspect.getsource(module))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert imports(model_agreement) == {"collections.abc", "dataclasses", "two_tower_client.errors"}
    assert imports(errors) == set()
