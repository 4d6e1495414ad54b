"""Who shares a call: the policy, without calls."""

from collections.abc import Sequence

from two_tower_client import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotServed,
    Overloaded,
    ServerError,
    TwoTowerError,
    UnknownItem,
)
from two_tower_client.rpc.line import Asked, Kind, Line

KIND = Kind(b"m1", may_wait=True)
NOW_S = 100.0


def asked(name: str, kind: Kind = KIND, *, left_s: float = 1.0, body: bytes = b"") -> Asked[str]:
    return Asked(kind, body, name, NOW_S + left_s, lambda: None)


def names(batch: Sequence[Asked[str]]) -> list[str]:
    return [each.request_id for each in batch]


def waiting(*queries: Asked[str]) -> tuple[Line[str], Asked[str]]:
    """Returns a line in which all queries waited when a call ended, and the query whose turn it is."""
    line = Line[str](1)
    assert line.begin()
    assert [line.enter(query) for query in queries] == [None] * len(queries)
    first = line.end()
    assert first is queries[0]
    return line, first


def names_of_next(line: Line[str], batch: Sequence[Asked[str]]) -> list[str]:
    """Answers a call, and returns the names of the queries in the next one, whose turn it then is."""
    line.settle(batch, "answers", NOW_S)
    first = line.end(batch)
    assert first is not None
    return names(line.take(first, NOW_S))


def test_a_query_leaves_at_once_unless_enough_calls_are_under_way() -> None:
    line = Line[str](2)
    assert [line.begin() for _ in range(3)] == [True, True, False]
    assert line.end() is None
    assert line.begin()


def test_those_who_waited_share_the_next_call_in_order_of_arrival() -> None:
    line, first = waiting(asked("a"), asked("b"), asked("c"))
    batch = line.take(first, NOW_S)
    assert names(batch) == ["a", "b", "c"]
    assert [each.sent_as for each in batch] == ["a", "a", "a"]
    line.settle(batch, "answers", NOW_S)
    assert [each.result() for each in batch] == [("answers", 0), ("answers", 1), ("answers", 2)]
    assert line.end(batch) is None
    assert line.begin()


def test_nobody_overtakes_those_who_wait() -> None:
    line, first = waiting(asked("a"), asked("b"))
    assert not line.begin()
    assert line.enter(asked("c")) is None
    assert names(line.take(first, NOW_S)) == ["a", "b", "c"]


def test_another_kind_keeps_its_place() -> None:
    other = Kind(b"m2", may_wait=True)
    line, first = waiting(asked("a"), asked("x", other), asked("b"), asked("y", other))
    batch = line.take(first, NOW_S)
    assert names(batch) == ["a", "b"]
    assert names_of_next(line, batch) == ["x", "y"]


def test_queries_with_much_more_or_less_time_left_do_not_share() -> None:
    line, first = waiting(asked("a"), asked("short", left_s=0.49), asked("b", left_s=0.5), asked("long", left_s=2.1))
    assert names(line.take(first, NOW_S)) == ["a", "b"]


def test_a_call_has_at_most_32_queries_and_a_quarter_of_a_megabyte() -> None:
    line, first = waiting(*(asked(str(number)) for number in range(31)))
    assert [line.enter(asked(str(number))) for number in range(31, 40)] == [None] * 9
    assert len(line.take(first, NOW_S)) == 32
    line, first = waiting(asked("a", body=b"1" * 200_000), asked("b", body=b"1" * 62_145), asked("c", body=b"1"))
    assert names(line.take(first, NOW_S)) == ["a", "c"]  # 200,000 + 62,144 are a quarter of a megabyte


def test_a_full_call_does_not_wait_for_one_to_end() -> None:
    line = Line[str](1)
    assert line.begin()
    turns = [line.enter(asked(str(number))) for number in range(80)]
    given = [(number, names([turn])) for number, turn in enumerate(turns) if turn is not None]
    assert given[0] == (31, ["0"])  # its call will take 31 others, so the next turn comes 32 later, the first left out
    assert given[1] == (64, ["1"])
    first = turns[31]
    assert first is not None
    assert len(line.take(first, NOW_S)) == 32


def test_a_query_that_the_error_names_is_asked_again_alone_and_the_others_together() -> None:
    line, first = waiting(asked("a"), asked("bad"), asked("c"))
    batch = line.take(first, NOW_S)
    line.settle(batch, InvalidRequest("no", (("queries[1].features[age]", "no"),)), NOW_S)
    again = line.end(batch)
    assert again is first
    together = line.take(first, NOW_S)
    assert names(together) == ["a", "c"]
    assert line.enter(asked("d")) is None
    assert names_of_next(line, together) == ["bad"]


def test_without_a_name_all_are_asked_again_alone() -> None:
    for error in (InvalidRequest("too large"), UnknownItem("no item", ("x",)), ServerError("a bug")):
        line, first = waiting(asked("a"), asked("b"))
        batch = line.take(first, NOW_S)
        line.settle(batch, error, NOW_S)
        assert line.end(batch) is first
        assert names(line.take(first, NOW_S)) == ["a"]


def test_a_position_that_is_not_in_the_call_is_no_name() -> None:
    line, first = waiting(asked("a"), asked("b"))
    batch = line.take(first, NOW_S)
    line.settle(batch, InvalidRequest("no", (("queries[2]", "no"),)), NOW_S)
    assert line.end(batch) is first
    assert names(line.take(first, NOW_S)) == ["a"]


def test_any_other_error_is_everybodys_and_each_gets_its_own_copy() -> None:
    for error in (Overloaded("busy", 0.5), ModelNotServed("no", ("m2",))):
        line, first = waiting(asked("a"), asked("b"))
        batch = line.take(first, NOW_S)
        cause = ValueError("cause")
        error.__cause__, error.request_id = cause, "a"
        line.settle(batch, error, NOW_S)
        errors = [each.error for each in batch]
        assert errors[0] is not errors[1]
        for each in errors:
            assert isinstance(each, type(error))
            assert (vars(each), each.args, each.__cause__) == (vars(error), error.args, cause)
        assert line.end(batch) is None


def test_the_service_may_take_fewer_queries_in_a_call() -> None:
    line, first = waiting(asked("a"), asked("b"), asked("c"), asked("d"))
    batch = line.take(first, NOW_S)
    line.settle(batch, InvalidRequest("4 queries", (("queries", "4 queries, expected 1 to 3"),)), NOW_S)
    assert line.end(batch) is first
    batch = line.take(first, NOW_S)
    assert names(batch) == ["a", "b"]
    assert names_of_next(line, batch) == ["c", "d"]
    assert line.begin() is False
    assert line.enter(asked("e")) is None
    full = line.enter(asked("f"))  # two wait, which are a full call now
    assert full is not None
    assert names(line.take(full, NOW_S)) == ["e", "f"]


def test_at_the_earliest_deadline_those_with_time_left_are_asked_again() -> None:
    line, first = waiting(asked("a", left_s=1.0), asked("b", left_s=0.6), asked("c", left_s=1.2))
    batch = line.take(first, NOW_S)
    line.settle(batch, DeadlineExceeded("late"), NOW_S + 0.6)
    assert [isinstance(each.error, TwoTowerError) for each in batch] == [False, True, False]
    assert line.end(batch) is first
    assert names(line.take(first, NOW_S + 0.6)) == ["a", "c"]


def test_whose_deadline_has_passed_gets_no_error_of_another() -> None:
    line, first = waiting(asked("a", left_s=1.0), asked("b", left_s=0.6))
    batch = line.take(first, NOW_S)
    line.settle(batch, InvalidRequest.in_field("searches[0].k", "is wrong"), NOW_S + 0.6)
    assert [each.error for each in batch] == [None, None]  # "b" ends at its deadline


def test_who_leaves_is_left_out() -> None:
    gone = asked("b")
    line, first = waiting(asked("a"), gone, asked("c"))
    assert line.leave(gone) is None
    batch = line.take(first, NOW_S)
    assert names(batch) == ["a", "c"]
    assert line.leave(batch[1]) is None
    line.settle(batch, ServerError("a bug"), NOW_S)
    assert line.end(batch) is first  # not of "c", which would be asked again otherwise
    assert names(line.take(first, NOW_S)) == ["a"]
    assert line.end() is None


def test_who_leaves_passes_its_turn_on() -> None:
    line, first = waiting(asked("a"), asked("b"))
    second = line.leave(first)
    assert second is not None
    assert names(line.take(second, NOW_S)) == ["b"]
    assert line.end() is None
    assert line.begin()


def test_a_query_whose_patience_ends_has_its_turn() -> None:
    line = Line[str](1)
    assert line.begin()
    impatient = asked("a")
    assert line.enter(impatient) is None
    assert line.enter(asked("b")) is None
    assert line.insist(impatient)
    assert impatient.leads
    assert names(line.take(impatient, NOW_S)) == ["a", "b"]
    assert not line.insist(impatient)
