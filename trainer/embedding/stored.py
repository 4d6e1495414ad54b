"""Reads the JSON files of a folder of vectors, which somebody may have damaged or edited."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from trainer.errors import DataError

_T = TypeVar("_T")


def parse(adapter: TypeAdapter[_T], content: bytes, place: str, advice: str) -> _T:
    """Returns the value that a JSON file holds; each field has to have its type.

    Args:
        adapter: Type of the value.
        content: Content of the file.
        place: Path or URL of the file, for messages.
        advice: What to do if the file is damaged, for messages.

    Raises:
        DataError: It is no JSON, or no such value; names the first field that is wrong.
    """
    try:
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        told = ": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]]))
        raise DataError(f"{place}: damaged ({told}); {advice}") from error
