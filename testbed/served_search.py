"""Graded queries through running services, ranked in each way that they offer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.evaluation import graded_queries
from trainer.evaluation.graded_queries import METRICS, Graded
from two_tower_client import Ranking, Retrieval, Retriever

GRADED = "queries_dev.csv"
"""Graded queries in the folder of the product catalogue. For validation: what is chosen by them is measured on others."""
RANKINGS: dict[str, Ranking] = {"BM25": "lexical", "towers": "embedding", "towers and BM25": "fused"}
"""By what a person calls them."""


def ask(retriever: Retriever, feature: str, query: str, return_attributes: Sequence[str] = ()) -> dict[str, Retrieval]:
    """Returns the first hundred items for a query, by the name of the ranking.

    Args:
        retriever: of both services.
        feature: of the query tower, that the query is sent as.
        query: that was typed.
        return_attributes: of the items.
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
    """Returns the means of `trainer.evaluation.graded_queries.METRICS` by ranking; `answers` are those to `queries`, in order."""
    means: dict[str, dict[str, float]] = {}
    for name in RANKINGS:
        found = graded_queries.measure(queries, [answer[name].item_ids for answer in answers])  # [n, metrics]
        means[name] = dict(zip(METRICS, np.mean(found, axis=0).tolist(), strict=True))
    return means
