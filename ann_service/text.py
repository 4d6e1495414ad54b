"""The text of a search: whether it can be ranked by, and how."""

from __future__ import annotations

from collections.abc import Sequence

from ann_service.plan import TextQuery
from retrieval.serving.rpc.errors import InvalidRequest
from two_tower.ann.v1 import ann_service_pb2 as pb

MAX_TEXT = 1000
MAX_FUSION_CONSTANT = 10_000
DEFAULT_FUSION_CONSTANT = 60
"""Of Cormack et al. 2009, who found it near the best over many collections."""

_BY_TEXT = (pb.RANKING_LEXICAL, pb.RANKING_FUSED)


def ranks_by_text(search: pb.Search) -> bool:
    """Returns whether a search needs a lexical index."""
    return search.ranking in _BY_TEXT


def read_text(search: pb.Search, path: str) -> TextQuery | None:
    """Returns what to rank by beside the target, or in its place; None where the embedding ranks alone.

    Raises:
        InvalidRequest: names all that is wrong.
    """
    if not (search.ranking or search.text or search.fusion_constant):
        return None
    violations = _check(search, path)
    if violations:
        raise InvalidRequest(violations)
    if not ranks_by_text(search):
        return None
    constant = search.fusion_constant or DEFAULT_FUSION_CONSTANT
    return TextQuery(search.text, fused=search.ranking == pb.RANKING_FUSED, fusion_constant=constant)


def _check(search: pb.Search, path: str) -> Sequence[tuple[str, str]]:
    if search.ranking not in pb.Ranking.values():
        return [(f"{path}.ranking", f"{search.ranking} is none; allowed are {', '.join(pb.Ranking.keys()[1:])}")]
    violations: list[tuple[str, str]] = []
    if not ranks_by_text(search):
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
    if not 0 <= search.fusion_constant <= MAX_FUSION_CONSTANT:
        violations.append((f"{path}.fusion_constant", f"{search.fusion_constant}, expected 0 to {MAX_FUSION_CONSTANT}"))
    return violations
