"""Renders the results of a load test as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from benchmarks.loadtest.judge import Outcome, percentile

_COLUMNS = 3
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1.5rem;color-scheme:light dark}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.25rem .75rem .25rem 0;text-align:right;border-bottom:1px solid #8884}"
    "th:first-child,td:last-child{text-align:left}.missed{color:#c0392b;font-weight:600}"
)


def render(
    title: str, outcomes: Sequence[Outcome], curves: Mapping[str, Sequence[tuple[float, float, float]]], note: str
) -> str:
    """Returns the HTML text of the page.

    Args:
        title: title of the page.
        outcomes: outcome of each configuration.
        curves: by name of a configuration with stepped load: for each step the calls per second, and p50 and p99 in
            milliseconds.
        note: sentence on how the figures were measured.
    """
    figures = [_histograms(outcomes), *([_curves(curves)] if curves else [])]
    drawn = "\n".join(figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>\n<h1>{escape(title)}</h1>\n"
        f"<p>{escape(note)}</p>\n{_table(outcomes)}\n{drawn}\n</body></html>\n"
    )


def _table(outcomes: Sequence[Outcome]) -> str:
    head = ("configuration", "calls", "calls/s", "of in-process limit", "p50 ms", "p95 ms", "p99 ms", "verdict")
    rows: list[str] = []
    for each in outcomes:
        latencies = [f"{percentile(each.calls, s):.2f}" if each.calls else "" for s in (0.5, 0.95, 0.99)]
        share = f"{each.rate / each.limit:.3f}" if each.limit else ""
        cells = [each.name, f"{len(each.calls):,}", f"{each.rate:,.0f}", share, *latencies]
        verdict = escape("; ".join(each.misses)) or "ok"
        rows.append(
            "<tr>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f'<td class="{"missed" if each.misses else "held"}">{verdict}</td></tr>'
        )
    heads = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _histograms(outcomes: Sequence[Outcome]) -> go.Figure:
    row_count = -(-len(outcomes) // _COLUMNS)
    figure = make_subplots(
        rows=row_count,
        cols=_COLUMNS,
        subplot_titles=[each.name for each in outcomes],
        vertical_spacing=0.25 / row_count,
    )
    for index, each in enumerate(outcomes):
        # Without the slowest hundredth, which would squeeze the rest into one bar; the table has its percentiles.
        shown = sorted(call.latency_ms for call in each.calls)[: max(1, round(0.99 * len(each.calls)))]
        figure.add_trace(
            go.Histogram(x=shown, nbinsx=40, showlegend=False, name=each.name),
            index // _COLUMNS + 1,
            index % _COLUMNS + 1,
        )
    figure.update_layout(title="Latency of the fastest 99 % of the calls, ms", height=260 * row_count + 80)
    return figure


def _curves(curves: Mapping[str, Sequence[tuple[float, float, float]]]) -> go.Figure:
    figure = go.Figure()
    for name, points in curves.items():
        for label, column in (("p50", 1), ("p99", 2)):
            figure.add_trace(
                go.Scatter(
                    x=[point[0] for point in points],
                    y=[point[column] for point in points],
                    mode="lines+markers",
                    name=f"{name} {label}",
                )
            )
    figure.update_layout(title="Latency against load", xaxis_title="calls a second", yaxis_title="ms", height=420)
    figure.update_yaxes(type="log")
    return figure
