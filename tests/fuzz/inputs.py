"""Odd inputs: valid values with a few edits, which reach far deeper than noise, and now and then noise.

Every input is made from a sequence of small numbers. So the same code takes them from hypothesis in the short form,
from a quick generator of random numbers in the long form, and from a list when the smallest failing input is searched.
"""

from __future__ import annotations

import copy
import pickle
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

T = TypeVar("T")

INTS = (0, 1, -1, 2, 3, 8, 9, 24, 25, 1000, 1001, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-300, 3.4e38, 1e300, float("nan"), float("inf"), float("-inf"), 1.7e9)
ODD_TEXTS = (
    "",
    " ",
    "\t\r\n",
    "\0",
    '"',
    "'",
    "|",
    ",",
    "ß",
    "İ",
    "\u202e",
    "\ufeff",
    "\U0001d54f",
    "e\u0301",
    "x" * 1025,
)
COUNTS = (1, 2, 9, 21, 1001)
"""Numbers of values: around the limits of the services under test, and far beyond."""
LEVELS = (1, 7, 8, 9, 60, 120)
"""Numbers of levels of nested messages: the limit of filters is 8, that of protobuf 100."""

_INT_BITS = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64, FieldDescriptor.CPPTYPE_ENUM: 32}


class Choices:
    """The numbers from which an input is made; 0 is the simplest choice everywhere.

    Attributes:
        below: Function from n to the next number, 0 to n - 1.
    """

    def __init__(self, below: Callable[[int], int]) -> None:
        self.below = below

    def pick(self, values: Sequence[T]) -> T:
        """Returns one of some values."""
        return values[self.below(len(values))]

    def rarely(self, one_in: int) -> bool:
        """Returns True once in so many times."""
        return self.below(one_in) == one_in - 1

    def noise(self, limit: int) -> bytes:
        """Returns up to `limit` bytes."""
        return bytes(self.below(256) for _ in range(self.below(limit + 1)))

    def text(self, words: Sequence[str]) -> str:
        """Returns most often one of `words`, else an odd text."""
        match self.below(4):
            case 0 | 1:
                return self.pick(words)
            case 2:
                return self.pick(ODD_TEXTS)
            case _:
                return self.noise(6).decode("utf-16-le", "ignore")


@dataclass(frozen=True)
class Target:
    """Code that takes inputs from outside, and what has to hold for each input.

    Attributes:
        name: Name of the target.
        make: Function that makes an input.
        check: Function that gives an input to the code, and raises an error if what happens is not allowed.
    """

    name: str
    make: Callable[[Choices], Any]
    check: Callable[[Any], None]


def edited_bytes(choices: Choices, bases: Sequence[bytes]) -> bytes:
    """Returns one of some byte strings with up to four edits, or noise."""
    if choices.rarely(10):
        return choices.noise(64)
    content = bytearray(choices.pick(bases))
    for _ in range(choices.below(5)):
        start = choices.below(len(content) + 1)
        end = min(len(content), start + choices.pick((0, 1, 2, 8, 1 << 20)))
        kept = content[start:end] if choices.below(2) else b""
        content[start:end] = kept + choices.noise(4) * choices.pick((1, 1, 1, 0, 2500))
    return bytes(content)


def edited_message(choices: Choices, bases: Sequence[Message], words: Sequence[str]) -> Message:
    """Returns one of some messages with up to four edits anywhere in it.

    Args:
        choices: numbers to make it from.
        bases: valid messages.
        words: texts that mean something to the code under test, such as item ids.
    """
    message = copy.deepcopy(choices.pick(bases))
    for _ in range(choices.below(5)):
        with suppress(DecodeError):  # protobuf copies by decoding, and refuses what is too deep
            _edit(choices, message, words)
    return message


def edited_value(choices: Choices, bases: Sequence[bytes], words: Sequence[str]) -> Any:
    """Returns one of some trees of dicts and lists with up to three values set, added or removed.

    Args:
        choices: numbers to make it from.
        bases: pickled trees, because that is the quickest way to copy them.
        words: texts that mean something to the code under test.
    """
    tree = pickle.loads(choices.pick(bases))  # noqa: S301
    for _ in range(choices.below(4)):
        tree = _edit_value(choices, tree, words)
    return tree


def _edit_value(choices: Choices, tree: Any, words: Sequence[str]) -> Any:
    keys: Sequence[Any] = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    what = choices.below(10)
    if not keys or what == 9:
        return _value(choices, words)
    key = choices.pick(keys)
    if what == 8:
        del tree[key]
    elif what == 7 and isinstance(tree, dict):
        tree[choices.text(words)] = copy.deepcopy(tree[key])
    else:
        tree[key] = _edit_value(choices, tree[key], words)
    return tree


def _value(choices: Choices, words: Sequence[str]) -> Any:
    match choices.below(6):
        case 0:
            return choices.pick((None, True, False, {}, [], 10**400, "\ud800", *INTS))
        case 1:
            return choices.pick(FLOATS)
        case 2:
            return [_value(choices, words) for _ in range(choices.below(3))]
        case 3:
            return {choices.text(words): _value(choices, words) for _ in range(choices.below(3))}
        case _:
            return choices.text(words)


def _edit(choices: Choices, message: Message, words: Sequence[str]) -> None:
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    parts = [field for field in fields if field.message_type is not None]
    if not fields:
        return
    field = choices.pick(parts if parts and choices.below(3) else fields)
    if field.message_type is None:
        _edit_scalar(choices, message, field, words)
        return
    if choices.rarely(12):
        message.ClearField(field.name)
        return
    part = getattr(message, field.name)
    if field.message_type.GetOptions().map_entry:
        key = choices.text(words) if not part or choices.rarely(8) else choices.pick(sorted(part))
        _edit(choices, part[key], words)
    elif field.is_repeated:
        if not part or choices.rarely(8):
            part.add()
        position = choices.below(len(part))
        if choices.rarely(12):
            part.extend([part[position]] * choices.pick(COUNTS))
        _edit(choices, part[position], words)
    elif field.message_type == message.DESCRIPTOR and choices.rarely(2):
        for _ in range(choices.pick(LEVELS)):  # a message within itself
            copied = copy.deepcopy(message)
            message.Clear()
            getattr(message, field.name).CopyFrom(copied)
    else:
        part.SetInParent()
        _edit(choices, part, words)


def _edit_scalar(choices: Choices, message: Message, field: Any, words: Sequence[str]) -> None:
    value = _scalar(choices, field.cpp_type, words)
    if not field.is_repeated:
        setattr(message, field.name, value)
        return
    values = getattr(message, field.name)
    match choices.below(5):
        case 0 if values:
            values[choices.below(len(values))] = value
        case 1 if values:
            del values[choices.below(len(values))]
        case 4 if values:
            count = len(values)
            del values[:]
            values.extend([value] * count)
        case 3:
            values.extend([value] * choices.pick(COUNTS))
        case _:
            values.append(value)


def _scalar(choices: Choices, cpp_type: int, words: Sequence[str]) -> Any:
    if bits := _INT_BITS.get(cpp_type):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        value = choices.pick(INTS) if choices.below(4) else choices.below(2**bits) + low
        return min(max(value, low), high)
    if cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return (
            choices.pick(FLOATS)
            if choices.below(4)
            else struct.unpack("<d", struct.pack("<Q", choices.below(2**64)))[0]
        )
    if cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return bool(choices.below(2))
    return choices.text(words) if cpp_type == FieldDescriptor.CPPTYPE_STRING else choices.noise(8)
