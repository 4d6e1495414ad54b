"""The drawing of the client's error classes."""

import re

from two_tower_client import errors


def test_the_drawing_shows_every_error() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    defined = {kind.__name__ for kind in errors.TwoTowerError.__subclasses__()}
    assert drawn == defined
    assert len(drawn) == 14


def test_an_error_of_one_field_names_it() -> None:
    error = errors.InvalidRequest.in_field("k", "has to be at least 1, got 0")
    assert str(error) == "k: has to be at least 1, got 0"
    assert error.violations == (("k", "has to be at least 1, got 0"),)
