"""Cuts the texts of errors to what gRPC can send."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from urllib.parse import quote

_PRINTABLE = string.punctuation.replace("%", "") + " "

MOST_BYTES = 6000
"""Largest size of message and details together. gRPC sends both as metadata and may refuse metadata above 8 KiB; the
caller would then see RESOURCE_EXHAUSTED instead of the error."""


def violations_that_fit(violations: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yields the first violations that fit into a status. At least one: if the first is too long, it is cut."""
    left = MOST_BYTES
    for number, (field, description) in enumerate(violations):
        size = size_in_metadata(field) + size_in_metadata(description)
        if size > left and number:
            return
        left -= size
        yield cut(field, MOST_BYTES // 4), cut(description, MOST_BYTES * 3 // 4)


def size_in_metadata(text: str) -> int:
    """Returns the size of a text in metadata, in bytes: once percent-encoded (message), twice as base64 (details)."""
    return len(quote(text, safe=_PRINTABLE)) + len(text.encode()) * 8 // 3


def cut(text: str, size: int) -> str:
    """Returns the text, cut at its end to at most `size` bytes in metadata."""
    while (current := size_in_metadata(text)) > size:
        text = f"{text[: max(1, len(text) * size // current - 2)]}…"
    return text
