"""Parses what a search does with its candidates: `candidates_limit`, `boosts`, `diversify` and `facets`."""

from __future__ import annotations

from collections.abc import Sequence

from ann_service.catalogue import Catalogue
from ann_service.filters import attribute_names
from ann_service.filters.match import match_steps
from ann_service.plan import Boost, Facet, GroupLimit, Reranking
from retrieval.serving.answering.errors import InvalidRequest
from retrieval.steps import Steps
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_CANDIDATES = 10_000
MAX_COMPARISONS = 2_000_000
"""Largest product of `k` and the number of candidates where these are compared with each other."""

MAX_BOOSTS = 10
MAX_WEIGHT = 1.0
MAX_LEXICAL_WEIGHT = 100.0
"""Largest sum of the absolute weights of the boosts of a search; BM25 scores are larger than others."""

MAX_GROUP_LIMITS = 4
MAX_GROUP_SIZE = 100_000
MAX_FACETS = 8
MAX_FACET_VALUES = 1000
DEFAULT_FACET_VALUES = 10

_LEAST_CANDIDATES = 100
_ROUNDING = 1e-5
"""By so much, sums of float32 weights may exceed a limit."""

_Violations = list[tuple[str, str]]


def has_reranking(search: pb.Search) -> bool:
    """Returns whether a search has boosts, `diversify` or facets."""
    return bool(search.boosts) or bool(search.facets) or search.HasField("diversify")


def candidates_limit(search: pb.Search) -> int:
    """Returns the largest number of candidates of a search, unchecked: what it says, or the default."""
    return search.candidates_limit or max(_LEAST_CANDIDATES, 2 * search.k)


def fetch_count(search: pb.Search) -> int:
    """Returns how many items a search requests in all, unchecked: `k`, or its candidates and those of its boosts."""
    if not has_reranking(search):
        return search.k
    return max(search.k, candidates_limit(search)) * (1 + len(search.boosts))


def parse_steps(search: pb.Search, catalogue: Catalogue, path: str, violations: _Violations) -> Steps[Reranking | None]:
    """Returns what a search does with its candidates; None if it has none. Pauses within long filters.

    Args:
        search: the search; its `k` and `filter` may be invalid.
        catalogue: catalogue to search.
        path: path of the search in the request, for violations.
        violations: list to which violations are added; if there are any, the result is not to be used.
    """
    diversify = search.diversify
    limit = candidates_limit(search)
    violations += _check_limits(search, limit, path)
    if not has_reranking(search):
        return None
    group_limits = [limit.attribute for limit in diversify.group_limits]
    facets = [facet.attribute for facet in search.facets]
    violations += _check_attributes(group_limits, catalogue, MAX_GROUP_LIMITS, f"{path}.diversify.group_limits")
    violations += _check_attributes(facets, catalogue, MAX_FACETS, f"{path}.facets")
    boosts: list[Boost] = []
    if len(search.boosts) <= MAX_BOOSTS:
        for number, boost in enumerate(search.boosts):
            where = f"{path}.boosts[{number}].filter"
            try:
                matches = yield from match_steps(catalogue.items, catalogue.filter_cache, boost.filter, where)
            except InvalidRequest as error:
                violations += error.violations
                continue
            favoured, combined = matches, favoured_filter(search, boost)
            if combined is not boost.filter:
                try:
                    favoured = yield from match_steps(catalogue.items, catalogue.filter_cache, combined, where)
                except InvalidRequest as error:
                    if not any(field.startswith(f"{path}.filter") for field, _ in violations):
                        fault = f"valid, but too large together with the filter of the search: {error.violations[0][1]}"
                        violations.append((where, fault))
                    continue
            boosts.append(Boost(boost.filter, boost.weight, matches, favoured))
    return Reranking(
        candidates_limit=limit,
        boosts=tuple(boosts),
        diversity=diversify.diversity,
        group_limits=tuple(GroupLimit(each.attribute, each.max_group_size) for each in diversify.group_limits),
        facets=tuple(Facet(each.attribute, each.limit or DEFAULT_FACET_VALUES) for each in search.facets),
    )


def favoured_filter(search: pb.Search, boost: pb.Boost) -> pb.Filter:
    """Returns the filter of the items among which a boost fetches candidates; see `ann_service.plan.Boost.favoured`."""
    favoured = boost.filter if boost.weight > 0 else pb.Filter(**{"not": boost.filter})  # pyright: ignore[reportArgumentType]
    if not search.HasField("filter"):
        return favoured
    return pb.Filter(all_of=pb.Filters(filters=[search.filter, favoured]))


def _check_limits(search: pb.Search, limit: int, path: str) -> _Violations:
    """Returns the violations of numbers and weights."""
    violations: _Violations = []
    reranks = has_reranking(search)
    diversity = search.diversify.diversity
    least = max(1, search.k)
    if (reranks or search.candidates_limit) and not least <= limit <= MAX_CANDIDATES:
        fault = f"{limit}, expected at least k ({search.k}) and at most {MAX_CANDIDATES}"
        violations.append((f"{path}.candidates_limit", fault))
    elif diversity and limit * search.k > MAX_COMPARISONS:
        fault = f"{limit} times k ({search.k}), expected at most {MAX_COMPARISONS} with a diversity"
        violations.append((f"{path}.candidates_limit", fault))
    if not 0.0 <= diversity <= 1.0:  # in this form, NaN fails too
        violations.append((f"{path}.diversify.diversity", f"{diversity}, expected 0 to 1"))
    for number, group in enumerate(search.diversify.group_limits[:MAX_GROUP_LIMITS]):
        if not 1 <= group.max_group_size <= MAX_GROUP_SIZE:
            where = f"{path}.diversify.group_limits[{number}].max_group_size"
            violations.append((where, f"{group.max_group_size}, expected 1 to {MAX_GROUP_SIZE}"))
    for number, facet in enumerate(search.facets[:MAX_FACETS]):
        if not 0 <= facet.limit <= MAX_FACET_VALUES:
            violations.append((f"{path}.facets[{number}].limit", f"{facet.limit}, expected 0 to {MAX_FACET_VALUES}"))
    return violations + _check_weights(search, path)


def _check_weights(search: pb.Search, path: str) -> _Violations:
    if len(search.boosts) > MAX_BOOSTS:
        return [(f"{path}.boosts", f"{len(search.boosts)} boosts, expected at most {MAX_BOOSTS}")]
    most = MAX_LEXICAL_WEIGHT if search.ranking == pb.RANKING_LEXICAL else MAX_WEIGHT
    violations: _Violations = []
    for number, boost in enumerate(search.boosts):
        if not 0.0 < abs(boost.weight) <= most + _ROUNDING:
            fault = f"{boost.weight:g}, expected {-most:g} to {most:g} and not 0"
            violations.append((f"{path}.boosts[{number}].weight", fault))
    total = sum(abs(boost.weight) for boost in search.boosts)
    if not violations and total > most + _ROUNDING:
        fault = f"their absolute weights add up to {total:g}, expected at most {most:g}; scale them down"
        violations.append((f"{path}.boosts", fault))
    return violations


def _check_attributes(names: Sequence[str], catalogue: Catalogue, most: int, path: str) -> _Violations:
    """Returns the violations of a list of options, each for an attribute of its own."""
    if len(names) > most:
        return [(path, f"{len(names)} attributes, expected at most {most}")]
    return attribute_names.check(names, catalogue.items, path, ".attribute")
