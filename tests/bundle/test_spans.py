"""Hashes of strings in one array of bytes depend on the string, all of it, and on nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bundle.spans import PADDING, Spans
from bundle.strings import Strings


def spans_of(*values: bytes, gap: bytes = b"") -> Spans:
    sizes = np.array([len(value) for value in values], dtype=np.int64)
    ends = np.cumsum(sizes + len(gap))
    utf8 = np.frombuffer(gap + gap.join(values) + gap + bytes(PADDING), dtype=np.uint8)
    return Spans(utf8, ends - sizes, ends)


@given(st.lists(st.binary(max_size=200), max_size=20), st.binary(max_size=3))
def test_a_hash_does_not_depend_on_what_is_around(values: list[bytes], gap: bytes) -> None:
    together = spans_of(*values, gap=gap)
    alone = [int(spans_of(value).hashes()[0]) for value in values]
    assert together.hashes().tolist() == alone
    # Among many shorter and many longer ones, which are mixed in other steps.
    for crowd in ([b"s"] * 90, [b"l" * 100] * 90):
        assert spans_of(*crowd, *values).hashes()[90:].tolist() == alone
    assert together.encoded(slice(None)) == values
    assert together.encoded(np.arange(len(values))[::-1]) == values[::-1]


def test_strings_that_differ_in_one_place_or_in_order_have_other_hashes() -> None:
    # 20 bytes with another one at each place, every shorter and longer run of zeros, and words of eight swapped.
    values = [b"x" * n + b"y" + b"x" * (19 - n) for n in range(20)]
    values += [bytes(n) for n in range(40)]
    values += [b"12345678abcdefgh", b"abcdefgh12345678"]
    assert len(set(spans_of(*values).hashes().tolist())) == 62


def test_hashes_of_numbered_strings_are_spread_evenly() -> None:
    strings = Strings.of([f"item-{number}" for number in range(65_536)])
    places = strings.spans(np.arange(65_536)).hashes() >> np.uint64(48)
    counts = np.bincount(places.astype(np.int64), minlength=65_536)
    # Drawn at random, each of so many places would stay empty with probability 1 / e = 0.368, and hold 10 or more
    # with one of 1e-7.
    assert 0.36 < np.count_nonzero(counts == 0) / 65_536 < 0.376
    assert counts.max() < 12


def test_spans_of_strings_are_the_strings() -> None:
    strings = Strings.of(["ä", "", "bcd"])
    assert strings.spans(np.array([2, 0, 1, 0])).encoded(slice(None)) == [b"bcd", b"\xc3\xa4", b"", b"\xc3\xa4"]
    assert strings.find_encoded([b"bcd", b"\xff", b"\xc3\xa4"]).tolist() == [2, -1, 0]
