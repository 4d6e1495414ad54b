"""The lexical index of a bundle as files: the arrays, a description, and golden queries."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from retrieval.bundle.layout import LEXICAL, LEXICAL_DESCRIPTION
from retrieval.index.lexical import bm25
from retrieval.index.lexical.bm25 import Bm25

_METHOD = {"method": "bm25", "idf": "lucene", "k1": bm25.K1, "b": bm25.B}
_GOLDEN_QUERIES, _GOLDEN_WORDS, _GOLDEN_ITEMS = 8, 4, 10


@dataclass(frozen=True)
class GoldenQuery:
    """A search text with its expected hits.

    Attributes:
        text: Search text.
        items: [n] external item ids, best first.
        scores: [n] scores of the items.
    """

    text: str
    items: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True, eq=False)
class LexicalIndex:
    """A lexical index of items. Immutable.

    Attributes:
        index: Index of the items' texts; row i is row i of ``vectors.npy``.
        attributes: Names of the item attributes that the texts are made of.
        golden_queries: Search texts with their expected hits; empty only if no item has a word.
    """

    index: Bm25
    attributes: tuple[str, ...]
    golden_queries: tuple[GoldenQuery, ...]


def write(folder: Path, attributes: Sequence[str], texts: Sequence[str], ids: Sequence[str]) -> None:
    """Writes the lexical index of items into the folder of a bundle.

    Args:
        folder: folder of the bundle.
        attributes: names of the item attributes that the texts are made of.
        texts: [item_count] text of each item.
        ids: [item_count] external ids.

    Raises:
        LexicalMissing: bm25s is not installed.
    """
    write_index(folder, Bm25.of(texts), attributes, texts, ids)


def write_index(folder: Path, index: Bm25, attributes: Sequence[str], texts: Sequence[str], ids: Sequence[str]) -> None:
    """Writes a lexical index into the folder of a bundle or of a shard.

    Args:
        folder: folder of the bundle or of the shard.
        index: index of the texts.
        attributes: names of the item attributes that the texts are made of.
        texts: [item_count] text of each item.
        ids: [item_count] external ids.
    """
    golden_queries = [_answer(index, text, ids) for text in _golden_texts(texts)]
    (folder / LEXICAL).mkdir()
    index.write(folder / LEXICAL)
    raw = {
        **_METHOD,
        "attributes": list(attributes),
        "item_count": len(texts),
        "canaries": [dataclasses.asdict(golden_query) for golden_query in golden_queries],
    }
    (folder / LEXICAL_DESCRIPTION).write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path) -> LexicalIndex:
    """Returns the lexical index in the folder of a bundle, whose files are verified.

    Raises:
        OSError: a file cannot be read.
        ValueError: the files are not a lexical index, or it was scored by another method.
    """
    raw = json.loads((folder / LEXICAL_DESCRIPTION).read_text(encoding="utf-8"))
    try:
        method = {name: raw[name] for name in _METHOD}
        golden_queries = tuple(_to_golden_query(golden_query) for golden_query in raw["canaries"])
        attributes, count = tuple(_list_of(str, raw["attributes"])), int(raw["item_count"])
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{LEXICAL_DESCRIPTION} is damaged: {error!r}") from error
    if method != _METHOD:
        raise ValueError(
            f"{LEXICAL_DESCRIPTION} says {method}, this program searches {_METHOD}: update it, or publish again"
        )
    if not attributes:
        raise ValueError(f"{LEXICAL_DESCRIPTION} names no attributes")
    try:
        return LexicalIndex(Bm25.read(folder / LEXICAL, count), attributes, golden_queries)
    except (EOFError, TypeError, BadZipFile) as error:  # NumPy raises these for an empty or truncated file
        raise ValueError(f"{LEXICAL} is damaged: {error!r}") from error


def _to_golden_query(raw: Any) -> GoldenQuery:
    golden_query = GoldenQuery(**raw)
    _list_of(str, [golden_query.text])
    if len(_list_of(str, golden_query.items)) != len(_list_of((int, float), golden_query.scores)):
        raise TypeError(f"a golden query has {len(golden_query.items)} items and {len(golden_query.scores)} scores")
    return golden_query


def _list_of(kind: type | tuple[type, ...], values: Any) -> list[Any]:
    """Returns `values`. Raises TypeError if it is not a list of this kind."""
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise TypeError(f"{values!r:.80} is not a list of {kind}")
    return values


def find_fault(lexical: LexicalIndex, ids: Sequence[str], tolerance: float = 1e-4) -> str:
    """Returns why the golden queries do not give the expected hits; an empty string if they do.

    Args:
        lexical: lexical index of a bundle.
        ids: [item_count] external ids.
        tolerance: largest relative difference of a score.
    """
    if not lexical.golden_queries and len(lexical.index.words):
        return "there are no golden queries"
    for number, golden_query in enumerate(lexical.golden_queries):
        answer = _answer(lexical.index, golden_query.text, ids)
        if list(answer.items) != list(golden_query.items):
            expected = list(golden_query.items)[:3]
            return f"golden query {number}, {golden_query.text!r}, finds {answer.items[:3]} …, expected {expected} …"
        if not np.allclose(answer.scores, golden_query.scores, rtol=tolerance, atol=0.0):
            expected = golden_query.scores[:3]
            return (
                f"golden query {number}, {golden_query.text!r}, has scores {answer.scores[:3]} …, expected {expected} …"
            )
    return ""


def _answer(index: Bm25, text: str, ids: Sequence[str]) -> GoldenQuery:
    rows = index.rank(text, _GOLDEN_ITEMS)
    return GoldenQuery(text, [ids[row] for row in rows], index.scores(text)[rows].astype(float).tolist())


def _golden_texts(texts: Sequence[str]) -> list[str]:
    """Returns the search texts of the golden queries, which are distinct: the first few words of evenly spaced texts.

    There are up to `_GOLDEN_QUERIES` search texts of up to `_GOLDEN_WORDS` words; texts without a word are left out.
    """
    filled = [text for text in texts if bm25.words_of(text)]
    chosen = (
        [filled[position] for position in np.linspace(0, len(filled) - 1, _GOLDEN_QUERIES).astype(int)]
        if filled
        else []
    )
    return list(dict.fromkeys(" ".join(bm25.words_of(text)[:_GOLDEN_WORDS]) for text in chosen))
