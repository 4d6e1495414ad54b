"""Escapes characters of a service's texts that a terminal would obey instead of show."""

import re

# C0 except the line break, DEL and C1 (escape sequences begin with ESC or with a C1 character), line and paragraph
# separators, and marks and overrides of the writing direction, which make a text look like another one.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    r"""Returns the text with control characters written as `\u001b`, the form of JSON. Line breaks stay."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def to_line(text: str) -> str:
    """Returns the text on one line: each run of blanks is one blank, and control characters are escaped."""
    return escape(" ".join(text.split()))
