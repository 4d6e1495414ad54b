"""The table of strings, which behaves like a tuple of strings."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.bundle.catalogue.string_table import Strings

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=12)


@given(texts, texts)
def test_behaves_like_a_tuple_with_an_index(given_texts: list[str], others: list[str]) -> None:
    distinct = list(dict.fromkeys(given_texts))
    strings = Strings.of(distinct)
    assert strings == tuple(distinct)
    assert [strings[n] for n in range(len(distinct))] == list(strings) == distinct
    assert dict(strings.positions) == {value: n for n, value in enumerate(distinct)}
    expected = [distinct.index(value) if value in distinct else -1 for value in others]
    assert strings.find(others).tolist() == expected
    assert [value in strings.positions for value in others] == [n >= 0 for n in expected]


def test_strings_that_share_a_checksum_are_told_apart() -> None:
    # A pair with one CRC-32, known from the literature on hash tables.
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    strings = Strings.of(["plumless", "x", "buckeroo"])
    assert strings.find(["buckeroo", "plumless", "x", "y"]).tolist() == [2, 0, 1, -1]
    assert strings.first_duplicate is None


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=2), min_size=40, max_size=80), texts)
def test_many_lookups_at_once_equal_lookups_one_by_one(wanted: list[str], given_texts: list[str]) -> None:
    distinct = list(dict.fromkeys(["plumless", "", "buckeroo", *given_texts, *wanted[:30]]))
    asked = [*wanted, "buckeroo", "plumless", "", "absent"]
    expected = [distinct.index(value) if value in distinct else -1 for value in asked]
    assert Strings.of(distinct).find(asked).tolist() == expected
    assert Strings.of([]).find(asked).tolist() == [-1] * len(asked)


def test_duplicates_are_found() -> None:
    assert Strings.of(["a", "b", "a"]).first_duplicate == "a"
    # Another string of the same checksum may lie between two equal strings.
    assert Strings.of(["plumless", "buckeroo", "plumless"]).first_duplicate == "plumless"


def test_unequal_sequences_are_unequal() -> None:
    assert Strings.of(["a", "b"]) != ("a", "c")
    assert Strings.of(["a"]) != ("a", "b")
    assert Strings.of([]) == ()


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    arrays: dict[str, np.ndarray] = {}
    Strings.of(["a", "bc"]).to_arrays("x", arrays)
    assert Strings.from_arrays("x", arrays) == ("a", "bc")
    with pytest.raises(ValueError, match="not of the same strings"):
        Strings.from_arrays("x", {**arrays, "x/order": arrays["x/order"][:1]})
    with pytest.raises(ValueError, match="not of the same strings"):
        Strings.from_arrays("x", {**arrays, "x/utf8": arrays["x/utf8"][:1]})


def test_joins_strings_with_room_before_each() -> None:
    strings = Strings.of(["ä", "", "bcd"])
    joined, starts, ends = strings.join(np.array([2, 0, 1, 0]), 2)
    # Two free bytes before each of: bcd (3 bytes), ä (2 bytes in UTF-8), nothing, ä.
    assert starts.tolist() == [2, 7, 11, 13]
    assert ends.tolist() == [5, 9, 11, 15]
    assert [joined[start:end].tobytes().decode() for start, end in zip(starts, ends, strict=True)] == [
        "bcd",
        "ä",
        "",
        "ä",
    ]


@given(texts, st.lists(st.integers(-1, 5), min_size=1, max_size=9), st.integers(0, 3))
def test_joins_any_strings_with_a_gap_of_any_size_before_each(values: list[str], wanted: list[int], first: int) -> None:
    positions = [number if number < len(values) else -1 for number in wanted]
    expected = ["" if number == -1 else values[number] for number in positions]
    gaps = np.arange(first, first + len(positions))
    joined, starts, ends = Strings.of(values).join(np.array(positions), gaps)
    found = [joined[start:end].tobytes().decode() for start, end in zip(starts, ends, strict=True)]
    assert found == expected
    assert (starts - np.concatenate([[0], ends[:-1]])).tolist() == gaps.tolist()
    assert Strings.of(values).lengths(np.array(positions)).tolist() == [len(value.encode()) for value in expected]
