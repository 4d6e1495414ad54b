"""Parses SearchItemsRequest into search plans.

Every input is checked here, because an index given invalid input returns arbitrary results or takes unlimited time.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence

import numpy as np

from ann_service.bitsets import Matches
from ann_service.catalogue import Catalogue
from ann_service.filters import attribute_names
from ann_service.filters.match import match_steps
from ann_service.plan import SearchPlan, TextQuery
from ann_service.reranking import options
from retrieval.bundle.catalogue.string_table import ABSENT, Strings
from retrieval.serving.answering.errors import InvalidRequest, UnknownItem
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_BUDGET = 10_000_000
MAX_EXCLUSIONS = 100_000
MAX_SIMILAR = 1000
MAX_TEXT = 1000
MAX_FUSION_CONSTANT = 10_000
DEFAULT_FUSION_CONSTANT = 60
"""Value of Cormack, Clarke and Büttcher 2009, who found it near the best on many collections."""

_MAX_VIOLATIONS = 20
_SMALLEST_MEAN = 1e-6
_NO_ROWS = np.zeros(0, dtype=np.int64)

_Violations = list[tuple[str, str]]
"""Pairs of a field path and a description of the error."""


def check(model_version: str, searches: Sequence[pb.Search], max_batch_size: int, max_results: int) -> None:
    """Checks the parts of a request that need no bundle.

    Args:
        model_version: model version of the request.
        searches: searches of the request.
        max_batch_size: largest number of searches.
        max_results: largest number of items that the searches request together.

    Raises:
        InvalidRequest: there are no searches, or too many, or they request too many items, or an embedding has no model
            version.
    """
    if not 1 <= len(searches) <= max_batch_size:
        raise InvalidRequest([("searches", f"{len(searches)} searches, expected 1 to {max_batch_size}")])
    result_count = sum(map(options.fetch_count, searches))
    if len(searches) > 1 and result_count > max_results:
        limit = f"with their candidates, expected at most {max_results}; send several requests"
        fault = f"together they request {result_count} items {limit}"
        raise InvalidRequest([("searches", fault)])
    if not model_version and any(search.WhichOneof("target") == "embedding" for search in searches):
        description = "empty beside an embedding; send EmbedQueriesResponse.model_version along with it"
        raise InvalidRequest([("model_version", description)])


def needs_lexical(searches: Sequence[pb.Search]) -> bool:
    """Returns whether one of the searches needs a lexical index."""
    return any(map(_ranks_by_text, searches))


def parse(
    searches: Sequence[pb.Search],
    catalogue: Catalogue,
    max_k: int,
    first: int = 0,
    max_exclusions: int = MAX_EXCLUSIONS,
) -> Steps[list[SearchPlan]]:
    """Returns the plan of each search, in order. Pauses within long filters and after each search.

    Args:
        searches: searches of a request that `check` accepts, all or some of them.
        catalogue: catalogue to search.
        max_k: largest `k` of a search.
        first: number of the first of these searches in the request, for violations.
        max_exclusions: largest number of ids that a search excludes.

    Raises:
        InvalidRequest: searches are invalid; the error lists up to 20 violations.
        UnknownItem: a search is by similarity to an item that the catalogue lacks.
    """
    violations: _Violations = []
    plans: list[SearchPlan] = []
    for number, search in enumerate(searches, first):
        try:
            plan = yield from _parse_search(search, catalogue, max_k, max_exclusions, f"searches[{number}]")
            plans.append(plan)
        except InvalidRequest as error:
            violations += error.violations
            if len(violations) >= _MAX_VIOLATIONS:
                break
        if len(searches) > 1:
            yield
    if violations:
        raise InvalidRequest(violations[:_MAX_VIOLATIONS])
    return plans


def _parse_search(
    search: pb.Search, catalogue: Catalogue, max_k: int, max_exclusions: int, path: str
) -> Steps[SearchPlan]:
    """Returns the plan of one search.

    Raises:
        InvalidRequest: the search is invalid; the error lists all of its violations.
    """
    violations = _check_limits(search, max_k, max_exclusions, path)
    violations += attribute_names.check(search.return_attributes, catalogue.items, f"{path}.return_attributes")
    allowed: Matches | None = None
    if search.HasField("filter"):
        try:
            allowed = yield from match_steps(catalogue.items, catalogue.filter_cache, search.filter, f"{path}.filter")
        except InvalidRequest as error:
            violations += error.violations
    violations += _check_text(search, path)
    reranking = yield from options.parse_steps(search, catalogue, path, violations)
    query, own_rows = np.zeros(0), _NO_ROWS
    if search.ranking != pb.RANKING_LEXICAL:
        try:
            query, own_rows = _parse_target(search, catalogue, path)
        except InvalidRequest as error:
            violations += error.violations
    if violations:
        raise InvalidRequest(violations)
    fetched = search.k if reranking is None else reranking.candidates_limit
    return SearchPlan(
        query=query,
        k=search.k,
        allowed=allowed,
        excluded=_excluded_rows(catalogue.items.ids, search.exclude_item_ids[:], own_rows),
        min_score=search.min_score if search.HasField("min_score") else None,
        exact=search.exact,
        budget=search.search_budget or catalogue.default_budget(fetched),
        return_attributes=tuple(search.return_attributes),
        text=_text_query(search),
        is_popular=search.HasField("popular"),
        reranking=reranking,
    )


def _ranks_by_text(search: pb.Search) -> bool:
    return search.ranking in (pb.RANKING_LEXICAL, pb.RANKING_FUSED)


def _text_query(search: pb.Search) -> TextQuery | None:
    """Returns the text to rank by; None if the embedding alone ranks."""
    if not _ranks_by_text(search):
        return None
    constant = search.fusion_constant or DEFAULT_FUSION_CONSTANT
    return TextQuery(search.text, fused=search.ranking == pb.RANKING_FUSED, fusion_constant=constant)


def _excluded_rows(ids: Strings, excluded_ids: Sequence[str], own_rows: np.ndarray) -> np.ndarray:
    """Returns the rows to leave out of the results: [n] int64, distinct, ascending.

    Args:
        ids: item ids of the catalogue.
        excluded_ids: ids that the request excludes; unknown ids are ignored.
        own_rows: [m] int64, rows of the items in `similar_to`, whose similar items are searched; they are left out too.
    """
    if not excluded_ids and not len(own_rows):
        return _NO_ROWS
    rows = np.sort(np.concatenate([ids.find(excluded_ids), own_rows]))
    return rows[np.diff(rows, prepend=ABSENT) > 0]


def _check_limits(search: pb.Search, max_k: int, max_exclusions: int, path: str) -> _Violations:
    """Returns the violations of k, search budget, lowest score and number of exclusions."""
    violations: _Violations = []
    if not 1 <= search.k <= max_k:
        violations.append((f"{path}.k", f"{search.k}, expected 1 to {max_k}"))
    if not 0 <= search.search_budget <= MAX_BUDGET:
        violations.append((f"{path}.search_budget", f"{search.search_budget}, expected 0 to {MAX_BUDGET}"))
    low, high, allowed = (0.0, sys.float_info.max, "0 or more") if _ranks_by_text(search) else (-1.0, 1.0, "-1 to 1")
    if search.HasField("min_score") and not low <= search.min_score <= high:  # in this form, NaN fails too
        violations.append((f"{path}.min_score", f"{search.min_score}, expected {allowed}"))
    exclusion_count = len(search.exclude_item_ids)
    if exclusion_count > max_exclusions:
        violations.append((f"{path}.exclude_item_ids", f"{exclusion_count} ids, expected at most {max_exclusions}"))
    return violations


def _check_text(search: pb.Search, path: str) -> _Violations:
    """Returns the violations of ranking, text and fusion constant."""
    if not (search.ranking or search.text or search.fusion_constant):
        return []
    if search.ranking not in pb.Ranking.values():
        allowed = ", ".join(pb.Ranking.keys()[1:])
        return [(f"{path}.ranking", f"{search.ranking} is not a ranking; allowed are {allowed}")]
    violations: _Violations = []
    if not _ranks_by_text(search):
        if search.text:
            fault = (
                "set, but the embedding ranks alone; set ranking to RANKING_LEXICAL or RANKING_FUSED, or leave it out"
            )
            violations.append((f"{path}.text", fault))
    elif not search.text.strip():
        violations.append((f"{path}.text", f"empty or blanks alone, expected 1 to {MAX_TEXT} characters"))
    elif len(search.text) > MAX_TEXT:
        violations.append((f"{path}.text", f"{len(search.text)} characters, expected 1 to {MAX_TEXT}"))
    if search.ranking == pb.RANKING_LEXICAL and search.WhichOneof("target") is not None:
        fault = "set, but the text ranks alone; leave it out, or set ranking to RANKING_FUSED"
        violations.append((f"{path}.{search.WhichOneof('target')}", fault))
    if search.ranking == pb.RANKING_FUSED and search.HasField("popular"):
        fault = "set, but a text is fused with a ranking by embedding; set embedding or similar_to instead"
        violations.append((f"{path}.popular", fault))
    if not 0 <= search.fusion_constant <= MAX_FUSION_CONSTANT:
        violations.append((f"{path}.fusion_constant", f"{search.fusion_constant}, expected 0 to {MAX_FUSION_CONSTANT}"))
    return violations


def _parse_target(search: pb.Search, catalogue: Catalogue, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the query embedding of a search, and the rows of the items in its `similar_to`.

    Returns:
        [dimension] float32, unit length; and [n] int64, empty if the search has another target than `similar_to`. The
        embedding is [0] if the target is the popular items.

    Raises:
        InvalidRequest: the search has no valid embedding or items.
        UnknownItem: the catalogue lacks an item.
    """
    match search.WhichOneof("target"):
        case "embedding":
            dimension = catalogue.manifest.dimension
            return _parse_embedding(search.embedding, dimension, f"{path}.embedding.values"), _NO_ROWS
        case "similar_to":
            return _parse_similar_to(search.similar_to.values, catalogue, f"{path}.similar_to.values")
        case "popular":
            return np.zeros(0, dtype=np.float32), _NO_ROWS
        case _:
            raise InvalidRequest([(path, "no target; set embedding, similar_to or popular")])


def _parse_embedding(embedding: pb.Embedding, dimension: int, path: str) -> np.ndarray:
    """Returns an embedding of the request, scaled to unit length: [dimension] float32.

    Args:
        embedding: embedding of the request.
        dimension: number of values that it must have.
        path: path of the values in the request, for violations.

    Raises:
        InvalidRequest: the number of values is wrong, a value is not finite, or all values are 0.
    """
    values = embedding.values[:]
    if len(values) != dimension:
        raise InvalidRequest([(path, f"{len(values)} values, the model has dimension {dimension}")])
    norm = math.hypot(*values)  # in float64, where the square of a float32 neither overflows nor vanishes
    if not math.isfinite(norm):  # it is not finite if a value is not
        raise InvalidRequest([(path, "NaN or infinite, expected finite values")])
    if norm == 0.0:
        raise InvalidRequest([(path, "a zero vector has no direction, expected a value other than 0")])
    return np.frombuffer(array("f", [value / norm for value in values]), dtype=np.float32)


def _parse_similar_to(item_ids: Sequence[str], catalogue: Catalogue, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of the vectors of some items, scaled to unit length, and the rows of the items.

    Returns:
        [dimension] float32, unit length; and [n] int64, distinct, in the order of `item_ids`.

    Raises:
        InvalidRequest: there are too few or too many ids, or the mean is zero and cannot be scaled.
        UnknownItem: the catalogue lacks an item.
    """
    if not 1 <= len(item_ids) <= MAX_SIMILAR:
        raise InvalidRequest([(path, f"{len(item_ids)} ids, expected 1 to {MAX_SIMILAR}")])
    distinct = list(dict.fromkeys(item_ids))
    rows = catalogue.items.ids.find(distinct)  # [n]
    unknown = [item_id for item_id, row in zip(distinct, rows, strict=True) if row == ABSENT]
    if unknown:
        raise UnknownItem(path, unknown)
    mean = catalogue.vectors[rows].mean(axis=0, dtype=np.float64)  # [dimension]
    norm = math.sqrt(float(mean @ mean))
    if norm < _SMALLEST_MEAN:
        raise InvalidRequest([(path, "the vectors of these items cancel out, so their mean has no direction")])
    return (mean / norm).astype(np.float32), rows
