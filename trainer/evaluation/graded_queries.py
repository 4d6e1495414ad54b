"""Graded queries, which have a relevance rating for some items, and metrics of rankings for them.

- ``ndcg@10``: gains of 2^rating - 1; the ideal ranking has all graded items of the query (Järvelin & Kekäläinen 2002;
  Burges et al. 2005 for the gains). Items without a grade count as irrelevant.
- ``recall@100``: share of the relevant items that are among the first 100.
- ``mrr``: 1 / rank of the first relevant item among the first 100.
- ``judged@10``: share of the first 10 items that have a grade. Methods with many ungraded items are underrated by the
  other metrics.
- ``ndcg@10 judged``: NDCG of the first 100 items without the ungraded ones (Sakai 2007, "condensed lists"). It does not
  measure irrelevant ungraded items, so it does not replace ``ndcg@10``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.errors import DataError

METRICS = ("ndcg@10", "recall@100", "mrr", "judged@10", "ndcg@10 judged")
DEPTH = 100
_SHALLOW = 10
_BEST = 30
"""Highest rating that is accepted; the gain about doubles from one rating to the next."""


@dataclass(frozen=True)
class Graded:
    """Queries with graded items.

    Attributes:
        queries: Texts of the queries, distinct, each with at least one relevant item.
        ratings: Ratings by item id for each query, in the order of `queries`; 0 is irrelevant.
        relevant_from: Lowest rating of a relevant item.
    """

    queries: tuple[str, ...]
    ratings: tuple[Mapping[str, int], ...]
    relevant_from: int


def read(qrels: Path, queries: Path | None, relevant_from: int = 1) -> Graded:
    """Reads graded queries from CSV files.

    Args:
        qrels: CSV file with the columns ``query``, ``docid`` and ``rating``, which is an integer from 0 to 30.
        queries: CSV file whose column ``query`` lists the queries to read; None for all graded queries.
        relevant_from: Lowest rating of a relevant item, at least 1.

    Raises:
        DataError: A file cannot be used (the message names the line), or no query has a relevant item.
    """
    if relevant_from < 1:
        raise DataError(f"--relevant-from {relevant_from}: a rating of 0 is irrelevant; give 1 or more")
    graded: dict[str, dict[str, int]] = {}
    for line, row in enumerate(_rows(qrels, ("query", "docid", "rating")), 2):
        if not row["rating"].isdecimal() or len(row["rating"]) > 2 or int(row["rating"]) > _BEST:
            raise DataError(f"{qrels}, line {line}: rating {row['rating']!r:.40} is not an integer from 0 to {_BEST}")
        ratings = graded.setdefault(row["query"], {})
        if row["docid"] in ratings:
            raise DataError(f"{qrels}, line {line}: {row['docid']!r} is graded twice for {row['query']!r}; keep one")
        ratings[row["docid"]] = int(row["rating"])
    chosen = list(graded) if queries is None else list(dict.fromkeys(r["query"] for r in _rows(queries, ("query",))))
    if unknown := [query for query in chosen if query not in graded]:
        raise DataError(f"{queries}: {len(unknown)} queries, for instance {unknown[0]!r}, have no grade in {qrels}")
    kept = tuple(query for query in chosen if max(graded[query].values()) >= relevant_from)
    if not kept:
        raise DataError(f"{qrels}: no query has an item rated {relevant_from} or higher; lower --relevant-from")
    return Graded(kept, tuple(graded[query] for query in kept), relevant_from)


def measure(graded: Graded, rankings: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the metrics of each query, in the order of `METRICS`: [n, 5] float64.

    Args:
        graded: Graded queries.
        rankings: Ranking for each query, item ids with the best first; items beyond rank `DEPTH` are ignored.
    """
    return np.array(
        [
            _measure(ratings, ranking, graded.relevant_from)
            for ratings, ranking in zip(graded.ratings, rankings, strict=True)
        ]
    )


def fuse(first: Sequence[str], second: Sequence[str], constant: int = 60) -> list[str]:
    """Combines two rankings into one by reciprocal rank fusion (Cormack et al. 2009); returns item ids, best first.

    The score of an item is the sum of 1 / (`constant` + rank) over the rankings that contain it.

    Args:
        first: Item ids of one ranking, best first.
        second: Item ids of the other ranking, best first.
        constant: Constant that is added to each rank; larger values lessen the weight of the first ranks.
    """
    scores: dict[str, float] = {}
    for ranking in (first, second):
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (constant + rank)
    return sorted(scores, key=lambda item: -scores[item])


def _measure(ratings: Mapping[str, int], ranking: Sequence[str], relevant_from: int) -> tuple[float, ...]:
    top = list(ranking[:DEPTH])
    gain = _gain([ratings.get(item, 0) for item in top])
    ideal = _gain(sorted(ratings.values(), reverse=True))
    relevant = {item for item, rating in ratings.items() if rating >= relevant_from}
    first = next((rank for rank, item in enumerate(top, 1) if item in relevant), 0)
    return (
        gain / ideal,
        len(relevant.intersection(top)) / len(relevant),
        1.0 / first if first else 0.0,
        sum(item in ratings for item in top[:_SHALLOW]) / _SHALLOW,
        _gain([ratings[item] for item in top if item in ratings]) / ideal,
    )


def _gain(ratings: Sequence[int]) -> float:
    return sum((2.0**rating - 1.0) / np.log2(rank + 1) for rank, rating in enumerate(ratings[:_SHALLOW], 1))


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    absent = [name for name in columns if not rows or name not in rows[0]]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}, or no rows; expected {', '.join(columns)}")
    for line, row in enumerate(rows, 2):
        if any(not row[name] for name in columns):
            raise DataError(f"{path}, line {line}: an empty cell; each row needs {', '.join(columns)}")
    return rows
