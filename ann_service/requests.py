"""Requests to searches: every input is checked here, since an index answers nonsense arbitrarily or at any cost."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence

import numpy as np

from ann_service.bitsets import Matches
from ann_service.catalogue import Catalogue
from ann_service.filters import match
from ann_service.plan import SearchPlan, TextQuery
from ann_service.text import ranks_by_text, read_text
from retrieval.bundle.catalogue.string_table import ABSENT, Strings
from retrieval.serving.rpc.errors import InvalidRequest, UnknownItem
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_BUDGET = 10_000_000
MAX_EXCLUSIONS = 100_000
MAX_SIMILAR = 1000
_MAX_VIOLATIONS = 20
_SMALLEST_MEAN = 1e-6
_NO_ROWS = np.zeros(0, dtype=np.int64)


def check_batch(searches: Sequence[pb.Search], model_version: str, max_batch_size: int) -> None:
    """Checks what needs no bundle.

    Raises:
        InvalidRequest: no or too many searches, or an embedding of an unnamed model.
    """
    if not 1 <= len(searches) <= max_batch_size:
        raise InvalidRequest([("searches", f"{len(searches)} searches, expected 1 to {max_batch_size}")])
    if not model_version and any(search.WhichOneof("target") == "embedding" for search in searches):
        description = "empty beside an embedding; send EmbedQueriesResponse.model_version along with it"
        raise InvalidRequest([("model_version", description)])


def read_searches(searches: Sequence[pb.Search], catalogue: Catalogue, max_k: int) -> list[SearchPlan]:
    """Returns the searches, ready to run.

    Raises:
        InvalidRequest: with up to 20 violations, of all searches.
        UnknownItem: an id to be similar to that the bundle lacks.
    """
    violations: list[tuple[str, str]] = []
    plans: list[SearchPlan] = []
    for number, search in enumerate(searches):
        try:
            plans.append(_read_search(search, catalogue, max_k, f"searches[{number}]"))
        except InvalidRequest as error:
            violations += error.violations
            if len(violations) >= _MAX_VIOLATIONS:
                break
    if violations:
        raise InvalidRequest(violations[:_MAX_VIOLATIONS])
    return plans


def _read_search(search: pb.Search, catalogue: Catalogue, max_k: int, path: str) -> SearchPlan:
    violations = _check_numbers(search, catalogue, max_k, path)
    allowed: Matches | None = None
    if search.HasField("filter"):
        try:
            allowed = match(catalogue.items, catalogue.filters, search.filter, f"{path}.filter")
        except InvalidRequest as error:
            violations += error.violations
    text: TextQuery | None = None
    try:
        text = read_text(search, path)
    except InvalidRequest as error:
        violations += error.violations
    query, own_rows = np.zeros(0), _NO_ROWS
    if search.ranking != pb.RANKING_LEXICAL:
        try:
            query, own_rows = _read_target(search, catalogue, path)
        except InvalidRequest as error:
            violations += error.violations
    if violations:
        raise InvalidRequest(violations)
    return SearchPlan(
        query=query,
        k=search.k,
        allowed=allowed,
        excluded=_rows_to_exclude(catalogue.items.ids, search.exclude_item_ids[:], own_rows),
        min_score=search.min_score if search.HasField("min_score") else None,
        exact=search.exact,
        budget=search.search_budget or catalogue.default_budget(search.k),
        return_attributes=tuple(search.return_attributes),
        text=text,
    )


def _rows_to_exclude(ids: Strings, excluded_ids: Sequence[str], own_rows: np.ndarray) -> np.ndarray:
    """Returns the rows of the excluded ids that the catalogue has, and `own_rows`: [n] int64, distinct, ascending."""
    if not excluded_ids and not len(own_rows):
        return _NO_ROWS
    rows = np.sort(np.concatenate([ids.find(excluded_ids), own_rows]))
    return rows[np.diff(rows, prepend=ABSENT) > 0]


def _check_numbers(search: pb.Search, catalogue: Catalogue, max_k: int, path: str) -> list[tuple[str, str]]:
    violations: list[tuple[str, str]] = []
    if not 1 <= search.k <= max_k:
        violations.append((f"{path}.k", f"{search.k}, expected 1 to {max_k}"))
    if not 0 <= search.search_budget <= MAX_BUDGET:
        violations.append((f"{path}.search_budget", f"{search.search_budget}, expected 0 to {MAX_BUDGET}"))
    low, high, allowed = (0.0, sys.float_info.max, "0 or more") if ranks_by_text(search) else (-1.0, 1.0, "-1 to 1")
    if search.HasField("min_score") and not low <= search.min_score <= high:  # so written that NaN fails
        violations.append((f"{path}.min_score", f"{search.min_score}, expected {allowed}"))
    exclusion_count = len(search.exclude_item_ids)
    if exclusion_count > MAX_EXCLUSIONS:
        violations.append((f"{path}.exclude_item_ids", f"{exclusion_count} ids, expected at most {MAX_EXCLUSIONS}"))
    attributes = catalogue.items.attributes
    seen: set[str] = set()
    for number, name in enumerate(search.return_attributes):
        if name not in attributes:
            known = ", ".join(sorted(attributes)) or "none"
            fault = f"unknown attribute {name[:80]!r}; the bundle has {known}"
        elif name in seen:
            fault = f"{name!r} stands twice"  # a request could otherwise ask for a response of any size
        else:
            seen.add(name)
            continue
        violations.append((f"{path}.return_attributes[{number}]", fault))
        if len(violations) >= _MAX_VIOLATIONS:
            break
    return violations


def _read_target(search: pb.Search, catalogue: Catalogue, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the direction, [dimension] float32 of unit length, and the rows that make it, [n] int64."""
    match search.WhichOneof("target"):
        case "embedding":
            dimension = catalogue.manifest.dimension
            return _read_embedding(search.embedding, dimension, f"{path}.embedding.values"), _NO_ROWS
        case "similar_to":
            return _read_similar(search.similar_to.values, catalogue, f"{path}.similar_to.values")
        case _:
            raise InvalidRequest([(path, "no target; set embedding or similar_to")])


def _read_embedding(embedding: pb.Embedding, dimension: int, path: str) -> np.ndarray:
    """Returns [dimension] float32 of unit length."""
    values = embedding.values[:]
    if len(values) != dimension:
        raise InvalidRequest([(path, f"{len(values)} values, the model has dimension {dimension}")])
    norm = math.hypot(*values)  # in float64, where the square of no float32 overflows or vanishes
    if not math.isfinite(norm):  # as any value that is not makes it
        raise InvalidRequest([(path, "NaN or infinite, expected finite values")])
    if norm == 0.0:
        raise InvalidRequest([(path, "a zero vector has no direction, expected a value other than 0")])
    return np.frombuffer(array("f", [value / norm for value in values]), dtype=np.float32)


def _read_similar(item_ids: Sequence[str], catalogue: Catalogue, path: str) -> tuple[np.ndarray, np.ndarray]:
    if not 1 <= len(item_ids) <= MAX_SIMILAR:
        raise InvalidRequest([(path, f"{len(item_ids)} ids, expected 1 to {MAX_SIMILAR}")])
    different = list(dict.fromkeys(item_ids))
    own_rows = catalogue.items.ids.find(different)  # [n]
    unknown = [item_id for item_id, row in zip(different, own_rows, strict=True) if row == ABSENT]
    if unknown:
        raise UnknownItem(path, unknown)
    mean = catalogue.vectors[own_rows].mean(axis=0, dtype=np.float64)  # [dimension]
    norm = math.sqrt(float(mean @ mean))
    if norm < _SMALLEST_MEAN:
        raise InvalidRequest([(path, "the vectors of these items cancel out, so their mean has no direction")])
    return (mean / norm).astype(np.float32), own_rows
