"""A comparison as one page to look at: no script, nothing loaded from elsewhere, every value escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from two_tower_client.comparison import Comparison, Example, Overlap
from two_tower_client.tables import compare_hits, compare_rankings, compare_sides, tell_left_out, to_features

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; margin: 0.5rem 0 }
th, td { text-align: left; padding: 0.15rem 1rem 0.15rem 0; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.lost { background: #fdecea } td.gained { background: #e8f5e9 }
code { overflow-wrap: anywhere } svg text { font-size: 11px; fill: currentColor } rect { fill: #4a78b5 }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e6e6e6 } th, td { border-color: #3a3d44 }
  td.lost { background: #4a2523 } td.gained { background: #1f3d25 }
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_BAR_WIDTH, _BAR_GAP, _CHART_HEIGHT = 44, 6, 120


def comparison_to_page(comparison: Comparison) -> str:
    """Returns the page, as HTML."""
    old, new = comparison.old.bundle_version, comparison.new.bundle_version
    heading = f"{old} and {new} compared"
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f"<p>{comparison.query_count} recorded queries, {comparison.k} items each.</p>",
        _to_table(["", "old", "new", "new - old"], compare_sides(comparison)),
        "<h2>How far the answers agree</h2>",
        _to_table(["", "mean", "p10", "p50", "p90", "queries"], compare_rankings(comparison)),
        *[f"<p>{escape(line)}.</p>" for line in tell_left_out(comparison)],
        *[_to_chart(overlap) for overlap in comparison.overlaps],
        "<h2>Where they differ most</h2>",
        *[_to_example(example, comparison) for example in comparison.examples],
    ]
    if not comparison.examples:
        parts.append("<p>Every query has the same answer from both.</p>")
    return _PAGE.format(title=escape(heading), style=_STYLE, body="\n".join(parts))


def _to_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _to_rows(header, [[(cell, "number" if column else "") for column, cell in enumerate(row)] for row in rows])


def _to_rows(header: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = [
        "<tr>" + "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in row) + "</tr>" for row in rows
    ]
    return "\n".join(["<table>", f"<tr>{head}</tr>", *lines, "</table>"])


def _to_chart(overlap: Overlap) -> str:
    tallest = max(overlap.bins)
    bars = list[str]()
    for position, count in enumerate(overlap.bins):
        height = round(_CHART_HEIGHT * count / tallest)
        x, y = position * (_BAR_WIDTH + _BAR_GAP), 20 + _CHART_HEIGHT - height
        middle = x + _BAR_WIDTH // 2
        low = position / len(overlap.bins)
        bars += [
            f'<rect x="{x}" y="{y}" width="{_BAR_WIDTH}" height="{height}"/>',
            f'<text x="{middle}" y="{y - 4}" text-anchor="middle">{count}</text>',
            f'<text x="{middle}" y="{36 + _CHART_HEIGHT}" text-anchor="middle">{low:.1f}</text>',
        ]
    width = len(overlap.bins) * (_BAR_WIDTH + _BAR_GAP)
    name = f"Queries by overlap@{overlap.cutoff}, from the number below each bar on"
    return (
        f'<p>{name}:</p>\n<svg role="img" aria-label="{name}" width="{width}" height="{40 + _CHART_HEIGHT}">'
        f"{''.join(bars)}</svg>"
    )


def _to_example(example: Example, comparison: Comparison) -> str:
    header = ["", comparison.old.bundle_version, "score", comparison.new.bundle_version, "score"]
    rows = [
        [(rank, "number"), (a, _to_kind(a)), (a_score, "number"), (b, _to_kind(b)), (b_score, "number")]
        for rank, a, a_score, b, b_score in compare_hits(example, comparison.title)
    ]
    return (
        f"<h3>Line {example.line}, overlap {example.overlap:.2f}</h3>\n"
        f"<p><code>{escape(to_features(example))}</code></p>\n"
        f"{_to_rows(header, rows)}"
    )


def _to_kind(cell: str) -> str:
    return {"- ": "lost", "+ ": "gained"}.get(cell[:2], "")
