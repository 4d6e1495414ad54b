"""Collects everything that ``report.html`` shows of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.bundle.manifest import GateResult, IndexSpec
from trainer.data.splits import Data
from trainer.publishing.report.facts import facts_of
from trainer.publishing.report.item_map import item_titles, map_items
from trainer.publishing.report.page_data import ReportData
from trainer.publishing.report.recommendations import choose_examples, measure_popularity
from trainer.publishing.report.search_curve import measure_search

if TYPE_CHECKING:  # these import tensorflow, which takes seconds
    from trainer.publishing.held_out_queries import HeldOutQueries
    from trainer.training.saved_run import Run


def collect(
    run: Run,
    data: Data,
    evaluation: Mapping[str, Any],
    gates: Mapping[str, GateResult],
    *,
    version: str,
    parent: str | None,
    queries: HeldOutQueries,
    vectors: np.ndarray,
    index_path: Path,
    index: IndexSpec,
) -> ReportData:
    """Returns the content of the report of a bundle that is being published.

    Args:
        run: Run that is published.
        data: Data set and its split.
        evaluation: Content of ``evaluation.json``.
        gates: Results of the publish gates by name.
        version: Version of the new bundle.
        parent: Version of the live bundle. None: no bundle is live.
        queries: Queries of held-out users, with their embeddings.
        vectors: [item_count, dim] float32, unit length.
        index_path: Index file of the new bundle.
        index: kind, parameters and search budget of the index.
    """
    dataset, parts = data
    recipe = run.model.recipe
    repeats, titles = recipe.split.repeats, item_titles(dataset.items)
    users, embeddings = queries.users, queries.embeddings
    return ReportData(
        title=f"{recipe.name}, bundle {version}",
        facts=facts_of(run, data, evaluation, version=version, parent=parent, spec=index),
        recipe=recipe.to_json(),
        epochs=run.epochs,
        best_metric=recipe.training.metric,
        evaluation=evaluation,
        gates=gates,
        search=measure_search(index_path, vectors, embeddings, index, recipe.index.shards),
        popularity=measure_popularity(users, embeddings, vectors, parts.known, repeats=repeats),
        item_map=map_items(vectors, parts.known.item_counts(len(vectors)), dataset.items, titles),
        examples=choose_examples(
            dataset.user_ids, titles, parts.known, parts.test, users, embeddings, vectors, repeats=repeats
        ),
    )
