"""The output of the command line: aligned tables, or JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from two_tower_client.cli.comparison import Comparison, Example, Latency, Spread
from two_tower_client.cli.escaping import to_line
from two_tower_client.cli.live_features import STORE_NOTES
from two_tower_client.fleet import Replica, find_live
from two_tower_client.results import AttributeValue, FacetCounts, Retrieval


def to_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table with aligned columns, two spaces apart. Empty cells become "-"."""
    # A tab or line break in a cell would break the alignment.
    lines = [[to_line(name) for name in header], *[[to_line(cell) or "-" for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_json(value: Any) -> str:
    """Returns `value` as indented JSON. Letters outside ASCII are not escaped."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def retrieval_to_table(
    retrieval: Retrieval,
    unknown_features: Sequence[str] = (),
    unknown_items: Sequence[str] = (),
    unmatched_boosts: Sequence[str] = (),
) -> str:
    """Returns a table with a row for each item (rank, id, score, attributes), and notes on what is unknown or missing.

    Args:
        retrieval: Items.
        unknown_features: Values of features that the model does not know, as far as they could be found out.
        unknown_items: Ids that were to be left out, and that the catalogue lacks.
        unmatched_boosts: Conditions of boosts that no item of the catalogue meets.
    """
    header = ["rank", "item", "score", *retrieval.attributes]
    rows = [
        [str(rank), hit.item_id, f"{hit.score:.4f}", *[to_cell(value) for value in hit.attributes.values()]]
        for rank, hit in enumerate(retrieval, start=1)
    ]
    versions = f"model {retrieval.model_version}, bundle {retrieval.bundle_version}"
    lines = [to_table(header, rows), ""]
    for name, facet in retrieval.facets.items():
        lines.append(to_line(f"{name} of {retrieval.candidate_count} candidates: {_to_counts(facet)}"))
    lines.append(to_line(versions))
    if retrieval.coverage < 1:
        searched = f"! only {retrieval.coverage:.2%} of the catalogue was searched, as shards did not answer"
        lines.append(f"{searched}: try again, and see the metric two_tower_shards of the ANN service")
    if not len(retrieval):
        lines.append("! no item matches: see --where, whose values are case-sensitive, --text and --exclude")
    if retrieval.unknown_values:
        named = f" ({_some(unknown_features)})" if unknown_features else ""
        stored = " and of what is stored of the user" if retrieval.stored_features == "used" else ""
        values = f"{retrieval.unknown_values} of the values of --feature{stored}{named}"
        lines.append(f"! the model does not know {values}: a typo, or new?")
    if retrieval.stored_features in STORE_NOTES:
        lines.append(STORE_NOTES[retrieval.stored_features])
    if retrieval.shortened_by_group_limits:
        lines.append(
            "! fewer items than --k: all other candidates are in full groups; raise --candidates-limit or --at-most"
        )
    if unknown_items:
        lines.append(f"! the catalogue has no item of these ids of --exclude: {_some(unknown_items)}")
    if unmatched_boosts:
        named = to_line(", ".join(unmatched_boosts))
        lines.append(f"! no item of the catalogue meets {named} of --boost, whose values are case-sensitive")
    if retrieval.is_fallback:
        lines.append(to_line(f"! fallback: popular items, because of {retrieval.fallback_reason}"))
    return "\n".join(lines)


def retrieval_to_json(
    retrieval: Retrieval, unknown_items: Sequence[str] = (), unmatched_boosts: Sequence[str] = ()
) -> str:
    """Returns the versions, what is unknown or missing, the reason of a fallback if it is one, and the items as JSON.

    Args:
        retrieval: Items.
        unknown_items: See `retrieval_to_table`, as for the next.
        unmatched_boosts: Conditions of boosts.
    """
    items: list[dict[str, Any]] = [
        {"item_id": hit.item_id, "score": hit.score, "attributes": dict(hit.attributes)} for hit in retrieval
    ]
    versions = {"model_version": retrieval.model_version, "bundle_version": retrieval.bundle_version}
    notes: dict[str, Any] = {"unknown_values": retrieval.unknown_values} if retrieval.unknown_values else {}
    if unknown_items:
        notes["unknown_excluded"] = list(unknown_items)
    if unmatched_boosts:
        notes["unmatched_boosts"] = list(unmatched_boosts)
    if retrieval.coverage < 1:
        notes["coverage"] = retrieval.coverage
    if retrieval.stored_features:
        notes["stored_features"] = retrieval.stored_features
    if retrieval.is_fallback:
        notes["fallback_reason"] = retrieval.fallback_reason
    if retrieval.candidate_count:
        notes["candidate_count"] = retrieval.candidate_count
        notes["shortened_by_group_limits"] = retrieval.shortened_by_group_limits
    if retrieval.facets:
        notes["facets"] = {name: _facet_to_json(facet) for name, facet in retrieval.facets.items()}
    for name, values in (("boost", retrieval.boosts), ("marginal_relevance", retrieval.marginal_relevances)):
        for item, value in zip(items, values, strict=False):
            item[name] = value
    return to_json({**versions, **notes, "items": items})


def replicas_to_table(replicas: Sequence[Replica], faults: Sequence[str], now_ms: int, width: int | None = None) -> str:
    """Returns a table with one row for each replica, followed by one line for each fault.

    If the table is wider than the terminal, there is a table of its own for each replica.

    The columns `opened` and `age` show when the live bundle was opened, in UTC, and how long ago.

    Args:
        replicas: Status of each replica.
        faults: Faults of the system.
        now_ms: Current time, in milliseconds since 1970-01-01 UTC.
        width: Number of characters in a line of the terminal. Default: no limit.
    """
    header = [
        "service",
        "address",
        "reachable",
        "store",
        "live",
        "model",
        "open",
        "loading",
        "problems",
        "opened",
        "age",
    ]
    rows = [
        [
            replica.service,
            replica.address,
            "no" if replica.error else "yes",
            replica.store_bundle,
            replica.live_bundle,
            replica.live_model,
            ",".join(replica.open_bundles),
            replica.loading_bundle,
            str(len(replica.problems) or ""),
            _to_time(replica.opened_at_ms) if replica.opened_at_ms else "",
            _to_age(now_ms - replica.opened_at_ms) if replica.opened_at_ms else "",
        ]
        for replica in replicas
    ]
    verdict = [f"! {to_line(fault)}" for fault in faults] or ["ok: all replicas answer and agree"]
    _, live = find_live(replicas)
    if any(replica.live_bundle != replica.store_bundle for replica in live):
        verdict.insert(0, "A query tower answers from an earlier bundle of the same model: the tower is the same.")
    table = to_table(header, rows)
    if width is not None and any(len(line) > width for line in table.splitlines()):
        table = "\n\n".join(to_table([header[0], row[0]], zip(header[1:], row[1:], strict=True)) for row in rows)
    return "\n".join([table, "", *verdict])


def replicas_to_json(replicas: Sequence[Replica], faults: Sequence[str]) -> str:
    """Returns the status of the replicas and the faults as JSON."""
    return to_json({"ok": not faults, "faults": list(faults), "replicas": [asdict(replica) for replica in replicas]})


def comparison_to_table(comparison: Comparison) -> str:
    """Returns tables of the two bundles, of their agreement, and of the queries whose results differ most."""
    old, new = comparison.old, comparison.new
    parts = [
        to_table(["", "old", "new", "new - old"], _compare_sides(comparison)),
        to_table(["agreement", "mean", "p10", "p50", "p90", "queries"], _compare_rankings(comparison)),
        *[f"! {to_line(line)}" for line in _left_out_lines(comparison)],
    ]
    for example in comparison.examples:
        header = ["rank", f"in {old.bundle_version}", "score", f"in {new.bundle_version}", "score"]
        table = to_table(header, _compare_hits(example, comparison.title))
        parts.append(f"line {example.line}, overlap {example.overlap:.2f}: {to_line(_to_features(example))}\n{table}")
    if comparison.examples:
        parts.append("-: in the results of the old bundle only, +: of the new bundle only")
    return "\n\n".join(parts)


def comparison_to_json(comparison: Comparison) -> str:
    """Returns the comparison as JSON."""
    return to_json(asdict(comparison))


def _compare_sides(comparison: Comparison) -> list[list[str]]:
    """Returns one row for each property of the two bundles: name, old value, new value, difference."""
    old, new = comparison.old, comparison.new
    return [
        ["bundle", old.bundle_version, new.bundle_version, ""],
        ["model", old.model_version, new.model_version, ""],
        ["mean top score", f"{old.top_score:.4f}", f"{new.top_score:.4f}", f"{comparison.top_score_shift:+.4f}"],
        ["mean score", f"{old.mean_score:.4f}", f"{new.mean_score:.4f}", f"{comparison.mean_score_shift:+.4f}"],
        *_compare_latency("embed", old.embed, new.embed),
        *_compare_latency("search", old.search, new.search),
    ]


def _compare_rankings(comparison: Comparison) -> list[list[str]]:
    """Returns one row for each measure of agreement: name, mean, three percentiles, number of queries."""
    rows = [[f"overlap@{each.cutoff}", *_to_figures(each.spread)] for each in comparison.overlaps]
    if comparison.correlation is not None:
        rows.append(["rank correlation", *_to_figures(comparison.correlation)])
    return rows


def _compare_hits(example: Example, title: str) -> list[list[str]]:
    """Returns one row for each rank: item and score of the old bundle, item and score of the new bundle.

    An item that only the old bundle returns is marked "-", one that only the new bundle returns "+".
    """
    old_ids, new_ids = ({hit.item_id for hit in hits} for hits in (example.old, example.new))
    rows = list[list[str]]()
    for rank in range(max(len(example.old), len(example.new))):
        row = [str(rank + 1)]
        for hits, others, sign in ((example.old, new_ids, "-"), (example.new, old_ids, "+")):
            if rank < len(hits):
                hit = hits[rank]
                value = hit.attributes.get(title)
                name = hit.item_id if value is None else f"{hit.item_id} {to_cell(value)}"
                row += [name if hit.item_id in others else f"{sign} {name}", f"{hit.score:.4f}"]
            else:
                row += ["", ""]
        rows.append(row)
    return rows


def _left_out_lines(comparison: Comparison) -> list[str]:
    """Returns a sentence for each recorded feature that one of the models does not read."""
    return [
        f"model {side.model_version} does not read feature {name!r}: left out of {count} queries"
        for side in (comparison.old, comparison.new)
        for name, count in side.left_out.items()
    ]


def _to_features(example: Example) -> str:
    """Returns the features of a query on one line, sorted by name."""
    return " ".join(
        f"{name}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in sorted(example.features.items())
    )


def _compare_latency(name: str, old: Latency, new: Latency) -> list[list[str]]:
    return [
        [f"{name} {what}, ms per query", f"{a:.3f}", f"{b:.3f}", f"{b - a:+.3f}"]
        for what, a, b in (("median", old.median_ms, new.median_ms), ("p99", old.p99_ms, new.p99_ms))
    ]


def _to_figures(spread: Spread) -> list[str]:
    figures = [f"{figure:.3f}" for figure in (spread.mean, spread.p10, spread.p50, spread.p90)]
    return [*figures, str(spread.query_count)]


def to_cell(value: AttributeValue) -> str:
    """Returns the text of an attribute value; "-" if there is none."""
    if value is None:
        return "-"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _to_counts(facet: FacetCounts) -> str:
    """Returns the counts of a facet on one line, as in "Drama 61, Comedy 40, … (18 values), without 2"."""
    counts = ", ".join(f"{value} {count}" for value, count in facet.counts.items()) or "no values"
    more = f", … ({facet.distinct_count} values)" if facet.distinct_count > len(facet.counts) else ""
    return f"{counts}{more}" + (f", without {facet.missing_count}" if facet.missing_count else "")


def _facet_to_json(facet: FacetCounts) -> dict[str, Any]:
    counts = [{"value": value, "count": count} for value, count in facet.counts.items()]
    return {"counts": counts, "distinct_count": facet.distinct_count, "missing_count": facet.missing_count}


def _some(texts: Sequence[str]) -> str:
    """Returns the first three texts on one line."""
    return to_line(", ".join(texts[:3])) + (", …" if len(texts) > 3 else "")


def _to_time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _to_age(age_ms: int) -> str:
    seconds = max(0, age_ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
