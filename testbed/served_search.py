"""Graded queries sent to running services, with each ranking that the services offer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.evaluation import graded_queries
from trainer.evaluation.graded_queries import METRICS, Graded
from two_tower_client import Ranking, Retrieval, Retriever

GRADED = "queries_dev.csv"
"""File of graded queries in the folder of the product catalogue, for validation alone."""
RANKINGS: dict[str, Ranking] = {"BM25": "lexical", "towers": "embedding", "towers and BM25": "fused"}
"""Ranking of the ANN service, by the name to show."""


def ask(retriever: Retriever, feature: str, query: str, return_attributes: Sequence[str] = ()) -> dict[str, Retrieval]:
    """Returns the first hundred items for a query, by the name of the ranking.

    Args:
        retriever: client of both services.
        feature: feature of the query tower that holds the text of the query.
        query: text that was typed.
        return_attributes: item attributes to return.
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
    """Returns the mean of each metric in `trainer.evaluation.graded_queries.METRICS`, by ranking.

    Args:
        queries: graded queries.
        answers: results of `ask` for each query, in the same order.
    """
    means: dict[str, dict[str, float]] = {}
    for name in RANKINGS:
        found = graded_queries.measure(queries, [answer[name].item_ids for answer in answers])  # [n, metrics]
        means[name] = dict(zip(METRICS, np.mean(found, axis=0).tolist(), strict=True))
    return means
