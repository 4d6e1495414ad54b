"""The metrics and labels that a PromQL expression names."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_STRING = r'"(?:[^"\\]|\\.)*"'
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_SELECTOR = re.compile(rf"([a-zA-Z_:][\w:]*)\s*(\{{(?:{_STRING}|[^}}\"])*\}})?(\s*\()?")


@dataclass(frozen=True)
class Selector:
    """A metric with its matchers.

    Attributes:
        metric: name of the metric.
        matchers: label, operator and value of each matcher.
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def read(expression: str) -> tuple[list[Selector], set[str]]:
    """Returns the selectors of an expression, and the labels by which it groups or joins."""
    groups = {name.strip() for found in _GROUPING.findall(expression) for name in found.split(",")} - {""}
    rest = re.sub(r"\[[^\]]*\]", " ", _GROUPING.sub(" ", expression))
    selectors: list[Selector] = []
    for name, braces, call in _SELECTOR.findall(re.sub(r"(?<![\w:])\d[\d.]*(?:e[+-]?\d+)?[a-z]*", " ", rest)):
        if call or name.lower() in _WORDS:
            continue
        matchers = tuple((label, operator, value[1:-1]) for label, operator, value in _MATCHER.findall(braces))
        selectors.append(Selector(name, matchers))
    return selectors, groups
