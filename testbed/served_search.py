"""Sends graded queries to running services with each ranking, and computes the metrics of each ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.evaluation import graded_queries
from trainer.evaluation.graded_queries import METRICS, Graded
from two_tower_client import Ranking, Retrieval, Retriever

GRADED = "queries_dev.csv"
"""File of the graded queries in the folder of the product catalogue. They are for validation, not for testing."""
RANKINGS: dict[str, Ranking] = {"BM25": "lexical", "towers": "embedding", "towers and BM25": "fused"}
"""Rankings of the client by their names in tables."""


def ask(retriever: Retriever, feature: str, query: str, return_attributes: Sequence[str] = ()) -> dict[str, Retrieval]:
    """Returns the first hundred items for a query with each ranking, by name of the ranking in `RANKINGS`.

    Args:
        retriever: client of both services.
        feature: name of the query tower's feature that holds the query text.
        query: query text.
        return_attributes: names of the item attributes to return.
    """
    return {
        name: retriever.retrieve(
            {feature: query},
            graded_queries.DEPTH,
            text="" if ranking == "embedding" else query,
            ranking=ranking,
            return_attributes=return_attributes,
        )
        for name, ranking in RANKINGS.items()
    }


def measure(queries: Graded, answers: Sequence[dict[str, Retrieval]]) -> dict[str, dict[str, float]]:
    """Returns the mean of each metric over queries, by name of the ranking and name of the metric.

    Args:
        queries: [n] graded queries.
        answers: [n] answers by name of the ranking, as `ask` returns them, in the order of `queries`.
    """
    means: dict[str, dict[str, float]] = {}
    for name in RANKINGS:
        found = graded_queries.measure(queries, [answer[name].item_ids for answer in answers])  # [n, metrics]
        means[name] = dict(zip(METRICS, np.mean(found, axis=0).tolist(), strict=True))
    return means
