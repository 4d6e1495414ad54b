"""Evaluates a model for search on graded queries, and compares it with BM25 and the frozen text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.index.lexical.bm25 import Bm25
from retrieval.index.recall import exact_top_k
from trainer.data.dataset import Dataset
from trainer.errors import RunError
from trainer.evaluation import bootstrap, graded_queries
from trainer.evaluation.graded_queries import DEPTH, METRICS, Graded
from trainer.model.embeddings import embed_items, embed_queries
from trainer.model.trained_model import TrainedModel
from trainer.progress import SILENT, Progress
from trainer.recipe.feature_inputs import TextInput
from trainer.recipe.recipe import Recipe, lexical_attributes
from trainer.text import building

MODEL, FUSED, BM25, FROZEN = "two-tower", "two-tower + BM25", "BM25", "frozen encoder"
Rankings = list[list[str]]


@dataclass(frozen=True)
class SearchEvaluation:
    """Result of an evaluation on graded queries.

    Attributes:
        query_count: Number of evaluated queries; each has a relevant item.
        metrics: Mean over queries by method, then metric, see `trainer.evaluation.graded_queries`.
        intervals: 95 % bootstrap intervals over queries, (lower bound, upper bound), by method, then metric.
        differences: Mean differences of two methods on the same queries, with 95 % intervals: (first minus second
            method, lower bound, upper bound), by first method, then second method, then metric.
        per_query: ``ndcg@10`` of each query by method, each list in the order of `queries`.
        queries: Texts of the evaluated queries.
    """

    query_count: int
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    differences: Mapping[str, Mapping[str, Mapping[str, tuple[float, float, float]]]]
    per_query: Mapping[str, Sequence[float]]
    queries: Sequence[str]


def evaluate_search(
    model: TrainedModel, dataset: Dataset, queries: Graded, progress: Progress = SILENT
) -> SearchEvaluation:
    """Evaluates a model, BM25, the fusion of both, and the frozen text encoder on graded queries.

    Args:
        model: Model whose query tower reads one text feature, which receives the queries.
        dataset: Data set with the catalogue.
        queries: Graded queries.
        progress: Receives the progress of the text encoder.

    Raises:
        RunError: The towers of the model read no text.
    """
    texts = list(queries.queries)
    dense = _dense(model, dataset, texts)
    attributes = lexical_attributes(model.recipe)
    if not attributes:
        raise RunError(
            f"{model.recipe.name}: its items have no text; name attributes under [search], or use a text feature"
        )
    index, ids = Bm25.of(dataset.items.texts(attributes)), dataset.items.ids
    lexical = [[ids[row] for row in index.rank(query, DEPTH)] for query in texts]
    fused = [graded_queries.fuse(*pair) for pair in zip(dense, lexical, strict=True)]
    rankings = {MODEL: dense, FUSED: fused, BM25: lexical}
    if frozen := _frozen(model.recipe, dataset, texts, progress):
        rankings[FROZEN] = frozen
    return summarise(queries, rankings)


def summarise(queries: Graded, rankings: Mapping[str, Rankings]) -> SearchEvaluation:
    """Computes the metrics of rankings, and the differences between the first two methods and all others.

    Args:
        queries: Graded queries.
        rankings: Rankings of each method by its name: a list of item ids for each query, best first.
    """
    values_of = {name: graded_queries.measure(queries, ranking) for name, ranking in rankings.items()}
    intervals = {name: bootstrap.bootstrap(values) for name, values in values_of.items()}
    differences: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for name in list(values_of)[:2]:
        others = {other: bootstrap.paired(values_of[name], values_of[other]) for other in values_of if other != name}
        differences[name] = {
            other: dict(zip(METRICS, zip(*difference.tolist(), strict=True), strict=True))
            for other, difference in others.items()
        }
    return SearchEvaluation(
        query_count=len(queries.queries),
        metrics={
            name: dict(zip(METRICS, values.mean(axis=0).tolist(), strict=True)) for name, values in values_of.items()
        },
        intervals={
            name: dict(zip(METRICS, zip(*interval.tolist(), strict=True), strict=True))
            for name, interval in intervals.items()
        },
        differences=differences,
        per_query={name: values[:, 0].tolist() for name, values in values_of.items()},
        queries=list(queries.queries),
    )


def _dense(model: TrainedModel, dataset: Dataset, queries: Sequence[str]) -> Rankings:
    """Returns the rankings by the towers of a model: a list of item ids for each query, best first."""
    names = [feature.name for feature in model.recipe.query_tower.features if isinstance(feature, TextInput)]
    if len(names) != 1:
        raise RunError(f"{model.recipe.name}: its query tower reads {len(names)} texts; graded queries need one")
    vectors = embed_items(model.towers[1], model.schemas, dataset)
    embeddings = embed_queries(model.towers[0], model.schemas, {names[0]: list(queries)}, len(queries))
    return _nearest(embeddings, vectors, dataset)


def _frozen(recipe: Recipe, dataset: Dataset, queries: Sequence[str], progress: Progress) -> Rankings | None:
    """Returns the rankings by the text encoder as it was before training; None if the item tower reads no text.

    The rankings are lists of item ids for each query, ordered by the similarity of the texts of query and item.
    """
    sides = (recipe.query_tower, recipe.item_tower)
    query, *_ = (f for f in sides[0].features if isinstance(f, TextInput))
    items = [f for f in sides[1].features if isinstance(f, TextInput)]
    if not items:
        return None
    item = next((f for f in items if f.checkpoint == query.checkpoint and f.mode == "frozen"), items[0])
    frozen = TextInput(item.name, "text", query.checkpoint, max_tokens=item.max_tokens)
    encoder = building.build([(frozen, ())], recipe.checkpoints, progress)[frozen]
    return _nearest(encoder.embed(list(queries)), encoder.embed(dataset.item_column(item.name)), dataset)


def _nearest(queries: np.ndarray, vectors: np.ndarray, dataset: Dataset) -> Rankings:
    ids = dataset.items.ids
    return [[ids[row] for row in rows] for rows in exact_top_k(queries, vectors, DEPTH).tolist()]
