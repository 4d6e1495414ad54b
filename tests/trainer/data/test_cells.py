"""Numbers, times, lists and ids as other programs write them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from trainer.data.cells import to_ids, to_lists, to_numbers, to_seconds, to_times


def read(function: Any, cells: list[Any], *arguments: Any) -> tuple[list[Any], list[str]]:
    notes: list[str] = []
    note = lambda what, example: notes.append(f"{what}, as in {example!r}")  # noqa: E731
    return function(pl.Series("c", cells), *arguments, note).to_list(), notes


@pytest.mark.parametrize(
    ("cells", "expected", "note"),
    [
        (["1.5", None, "-2", "1e3"], [1.5, None, -2.0, 1000.0], ""),
        (["24,90", "3", None], [24.9, 3.0, None], "a comma is the decimal separator"),
        (["1.024,90", "24,9", "3.000"], [1024.9, 24.9, 3000.0], "a comma is the decimal separator"),
        (["24,90 €", "€ 3,5", "7 EUR"], [24.9, 3.5, 7.0], "without unit and blanks"),
        (["$1,024.90", "3.5"], [1024.9, 3.5], "a comma separates thousands"),
        (["1,024,000", "12"], [1024000.0, 12.0], "a comma separates thousands"),
        ([" 7 ", "8"], [7.0, 8.0], "without unit and blanks"),
    ],
)
def test_numbers(cells: list[Any], expected: list[Any], note: str) -> None:
    found, notes = read(to_numbers, cells)
    assert found == expected
    assert note in " ".join(notes)


def test_a_cell_of_another_form_than_its_column_is_none() -> None:
    assert read(to_numbers, ["24,90", "1.5,3", "1,2,3", "1e5", "€", "7"])[0] == [24.9, None, None, None, None, 7.0]
    assert read(to_numbers, ["1,024.5", "1,02,3", "7"])[0] == [1024.5, None, 7.0]


@pytest.mark.parametrize("cells", [["1,024", "2"], ["1,5", "2.5"], ["1,5", "1,024.5"], ["x"], ["1,2,3"], ["1.2.3"]])
def test_what_may_mean_two_numbers_is_none(cells: list[str]) -> None:
    assert None in read(to_numbers, cells)[0]


MOMENT = datetime(2026, 11, 24, 3, 16, 45, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T03:16:45", MOMENT),
        ("2026-11-24 03:16:45", MOMENT),
        ("2026-11-24T03:16:45Z", MOMENT),
        ("2026-11-24 03:16:45 UTC", MOMENT),
        ("2026-11-24 04:16:45+01:00", MOMENT),
        ("2026-11-24T04:16:45+0100", MOMENT),
        ("2026-11-23T22:16:45-05", MOMENT),
        ("2026-11-24T03:46:45+00:30", MOMENT),
        ("2026-11-23T23:46:45-03:30", MOMENT),
        ("2026-11-24 03:16:45.250 UTC", MOMENT + 0.25),
        ("2026/11/24 03:16:45", MOMENT),
        (" 2026-11-24 03:16 ", MOMENT - 45),
        ("2026-11-24", MOMENT - 45 - 16 * 60 - 3 * 3600),
        ("24.11.2026 03:16", MOMENT - 45),
        ("24.11.2026", MOMENT - 45 - 16 * 60 - 3 * 3600),
        ("soon", None),
        ("2026-13-01", None),
    ],
)
def test_times(text: str, expected: float | None) -> None:
    assert to_times(pl.Series([text])).to_list() == [expected]
    mixed = to_times(pl.Series(["2026-11-24T03:16:45", text, None])).to_list()
    assert mixed == [MOMENT, expected, None]


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, ""), (1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds")]
)
def test_units_of_times(factor: float, unit: str) -> None:
    found, notes = read(to_seconds, [MOMENT * factor, None])
    assert found == [pytest.approx(MOMENT), None]
    assert unit in " ".join(notes)
    assert bool(notes) == bool(unit)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a|b", "c", None], [["a", "b"], ["c"], None]),
        (['["a", "b"]', "[]"], [["a", "b"], []]),
        (["['a', \"b's\"]", "['c']"], [["a", "b's"], ["c"]]),
        (["[1, 2]", '["x"]'], [["1", "2"], ["x"]]),
        (["[a", "[b]"], [["[a"], ["[b]"]]),
        (["[[1]]"], [["[[1]]"]]),
        (["[__import__('os')]"], [["[__import__('os')]"]]),
        (["[" * 100_000 + "]" * 100_000], [["[" * 100_000 + "]" * 100_000]]),
    ],
)
def test_lists(cells: list[Any], expected: list[Any]) -> None:
    assert read(to_lists, cells, "|")[0] == expected


@pytest.mark.parametrize(
    ("cells", "expected", "note"),
    [
        (["a", " b ", None], ["a", "b", None], "blanks around ids"),
        (["7", "007"], ["7", "007"], ""),
        (["1000.0", "7.0"], ["1000", "7"], "floating-point numbers"),
        (["1000.0", "x.0", "7"], ["1000", "x.0", "7"], "floating-point numbers"),
        ([1000.0, None, 7.0], ["1000", None, "7"], "floating-point numbers"),
        ([1.5, 2.0], ["1.5", "2.0"], ""),
        ([math.nan, 7.0], [None, "7"], "floating-point numbers"),
        ([math.nan, None], [None, None], ""),
        ([12345678901234567, 2], ["12345678901234567", "2"], ""),
    ],
)
def test_ids(cells: list[Any], expected: list[Any], note: str) -> None:
    found, notes = read(to_ids, cells)
    assert found == expected
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)


@pytest.mark.parametrize("cells", [[1e18, 7.0], ["1234567890123456768.0", "7.0"]])
def test_ids_that_were_rounded_are_refused(cells: list[Any]) -> None:
    with pytest.raises(ValueError, match="too large to be exact; export them as text"):
        read(to_ids, cells)


def test_an_infinite_time_has_no_unit() -> None:
    assert read(to_seconds, [float("inf"), 1.0]) == ([float("inf"), 1.0], [])


@pytest.mark.parametrize(
    ("decimal", "expected"),
    [(",", [24.9, 1129.0, 1024.5, 7.0, None]), (".", [None, 1.129, None, 7.0, 1024.5])],
)
def test_a_given_decimal_separator_decides(decimal: str, expected: list[float | None]) -> None:
    cells = ["24,90 \N{EURO SIGN}", "1.129", "1.024,50", "7", "1,024.50"]
    assert read(lambda text, note: to_numbers(text, note, decimal), cells) == (expected, [])
