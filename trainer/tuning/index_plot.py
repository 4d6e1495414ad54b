"""Writes the HTML page of the command `tune-index`: plots of recall against search time, file size and build time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from trainer.tuning.index_sweep import MeasuredIndex, Point

# Okabe and Ito 2008, Color Universal Design.
_COLOURS = {"annoy": "#0072B2", "faiss_hnsw": "#E69F00", "faiss_ivf": "#009E73"}
_DASHES = ("solid", "dash", "dot", "dashdot")


def write_page(
    path: Path,
    title: str,
    measured: Sequence[MeasuredIndex],
    exact_scan: Point,
    min_recall: float,
    chosen: MeasuredIndex,
) -> None:
    """Writes an HTML page that plots the measurements of indexes and needs no network.

    Args:
        path: HTML file to write or replace.
        title: Title of the page.
        measured: Measured indexes to plot.
        exact_scan: Recall and search time of the exact scan, for comparison.
        min_recall: Recall to reach, 0 to 1, drawn as a line.
        chosen: Recommended index, which is marked.
    """
    figure = make_subplots(
        rows=1, cols=3, subplot_titles=("recall by time of a search", "size of the file", "time to build"),
        column_widths=[0.5, 0.25, 0.25],
    )  # fmt: skip
    counts: dict[str, int] = {}
    for index in measured:
        dash = _DASHES[counts.setdefault(index.kind, 0) % len(_DASHES)]
        counts[index.kind] += 1
        name = index.name + (" (recommended)" if index is chosen else "")
        line = {"color": _COLOURS[index.kind], "dash": dash, "width": 4 if index is chosen else 2}
        times = [point.median_us for point in index.points]
        recalls = [point.recall_at_100 for point in index.points]
        texts = [f"budget {point.budget:,}" for point in index.points]
        trace = go.Scatter(x=times, y=recalls, text=texts, name=name, line=line, mode="lines+markers")
        figure.add_trace(trace, 1, 1)
        for column, value in ((2, index.bytes_per_item), (3, index.build_s)):
            bar = go.Bar(
                x=[value], y=[index.name], orientation="h", marker_color=_COLOURS[index.kind], showlegend=False
            )
            figure.add_trace(bar, 1, column)
    marker = {"symbol": "diamond", "size": 12, "color": "#999999"}
    exact = go.Scatter(x=[exact_scan.median_us], y=[1.0], mode="markers", marker=marker, name="exact scan")
    figure.add_trace(exact, 1, 1)
    figure.add_hline(y=min_recall, line_dash="dot", line_color="#999999", row=1, col=1)
    figure.update_xaxes(type="log", title_text="median microseconds", row=1, col=1)
    figure.update_yaxes(title_text="recall@100", row=1, col=1)
    figure.update_xaxes(title_text="bytes an item", row=1, col=2)
    figure.update_xaxes(title_text="seconds", row=1, col=3)
    figure.update_layout(title=escape(title), height=560, legend={"orientation": "h", "y": -0.25})
    path.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8", newline="\n")
