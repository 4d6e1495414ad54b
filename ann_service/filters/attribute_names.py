"""Checks the names of attributes that a search lists."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.bundle.catalogue.items import ItemTable

_MAX_VIOLATIONS = 20


def check(names: Sequence[str], items: ItemTable, path: str, field: str = "") -> list[tuple[str, str]]:
    """Returns the violations of a list of names, at most 20: an attribute is unknown, or listed twice.

    Args:
        names: names in a request.
        items: items of the bundle.
        path: path of the list in the request.
        field: field of each element that has the name; empty if the elements are the names.
    """
    violations: list[tuple[str, str]] = []
    seen: set[str] = set()
    for number, name in enumerate(names):
        if name not in items.attributes:
            known = ", ".join(sorted(items.attributes)) or "none"
            fault = f"unknown attribute {name[:80]!r}; the bundle has {known}"
        elif name in seen:
            fault = f"{name!r} is listed twice"  # duplicates would let a request cause a response of any size
        else:
            seen.add(name)
            continue
        violations.append((f"{path}[{number}]{field}", fault))
        if len(violations) >= _MAX_VIOLATIONS:
            break
    return violations
