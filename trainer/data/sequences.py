"""Reads interactions of format ``sequences``: one line for each user, ``user item item …``, oldest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from trainer.errors import DataError


def read_sequences(path: Path) -> pl.DataFrame:
    """Reads the events in order of the file.

    Blanks and tabs separate the ids. Empty lines are skipped.

    Returns:
        ``user`` and ``item`` as text; ``time`` as Float64, the number of the event in the file; ``weight`` as Float64,
        always 1.

    Raises:
        DataError: The file cannot be read, a user has no item, or a user has two lines.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; check the path: --interactions, --items and --users name a file, --data the folder "
            "of a recipe"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; save it as UTF-8 text") from error
    first_line: dict[str, int] = {}
    lengths: list[int] = []
    items: list[str] = []
    for number, line in enumerate(lines, start=1):
        user, *user_items = line.split() or [""]
        if not user:
            continue
        if not user_items:
            raise DataError(
                f"{path}, line {number}: user {user!r} has no item; a line is a user and items, or remove it"
            )
        if user in first_line:
            raise DataError(f"{path}, line {number}: user {user!r} is in line {first_line[user]} too; make it one line")
        first_line[user] = number
        lengths.append(len(user_items))
        items += user_items
    if not items:
        raise DataError(f"{path}: no rows")
    return pl.DataFrame(
        {
            "user": np.repeat(np.array(list(first_line), dtype=object), lengths).tolist(),
            "item": items,
            "time": np.arange(len(items), dtype=np.float64),
            "weight": np.ones(len(items)),
        }
    )
