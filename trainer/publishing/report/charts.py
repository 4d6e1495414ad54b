"""The figures of ``report.html``, drawn by plotly. Text from the data is escaped: plotly reads some HTML in labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from trainer.publishing.report.page_data import ItemMap, Popularity, ReportData, SearchCurve

# Okabe and Ito 2008, Color Universal Design: colour-blind readers can tell them apart, on light and dark pages.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7A00", "#7B61C4")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
_OTHER = "#999999"
_GRID = "rgba(128, 128, 128, 0.25)"
_VALID = "val_"
_FIRST_SHOWN = frozenset({"ndcg@10", "recall@100"})


def draw_epochs(epochs: Sequence[Mapping[str, Any]], best_metric: str) -> go.Figure:
    """Returns the training loss and the validation metrics by epoch, in two panels."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("training loss", "validation metrics"))
    numbers = list(range(1, len(epochs) + 1))  # the epochs of an ensemble's models follow one another
    losses = [epoch.get("loss") for epoch in epochs]
    figure.add_trace(go.Scatter(x=numbers, y=losses, name="loss", line_color=_OTHER, mode="lines+markers"), 1, 1)
    for number, name in enumerate(validation_metrics(epochs)):
        line = {"color": _COLOURS[number % len(_COLOURS)], "width": 3 if name == best_metric else 1.5}
        values = [epoch.get(_VALID + name) for epoch in epochs]
        shown = True if name in _FIRST_SHOWN or name == best_metric else "legendonly"
        trace = go.Scatter(
            x=numbers, y=values, name=_plain(name), line=line, mode="lines+markers", visible=shown, connectgaps=True
        )
        figure.add_trace(trace, 1, 2)
    figure.update_xaxes(title_text="epoch")
    return _styled(figure)


def validation_metrics(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the metrics that any epoch measured on the validation part, in order of appearance."""
    return list(dict.fromkeys(n.removeprefix(_VALID) for epoch in epochs for n in epoch if n.startswith(_VALID)))


def draw_methods(
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Sequence[float]]],
    names: Sequence[str],
) -> go.Figure:
    """Returns a panel for each named metric, with all methods from top to bottom and their 95 % intervals."""
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=[_plain(n) for n in names], shared_yaxes=True)
    methods = list(metrics)
    for column, name in enumerate(names, 1):
        values = [metrics[method].get(name) for method in methods]
        pairs = [intervals.get(method, {}).get(name) for method in methods]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [p[1] - v if p and v is not None else 0 for p, v in zip(pairs, values, strict=True)],
            "arrayminus": [v - p[0] if p and v is not None else 0 for p, v in zip(pairs, values, strict=True)],
        }
        colours = [_COLOURS[0], *[_OTHER] * (len(methods) - 1)]
        trace = go.Scatter(
            x=values,
            y=[_plain(method) for method in methods],
            error_x={**bars, "color": _OTHER} if any(pairs) else None,
            mode="markers",
            marker={"size": 11, "color": colours},
            showlegend=False,
            name=_plain(name),
        )
        figure.add_trace(trace, 1, column)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, height=140 + 34 * len(methods), show_legend=False)


def draw_search(search: SearchCurve) -> go.Figure:
    """Returns two panels: recall by search budget, and recall by time, with the exact scan as a point."""
    titles = ("by search budget", "by time of a query")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, shared_yaxes=True)
    budgets = [point.budget for point in search.points]
    recalls = [point.recall_at_100 for point in search.points]
    published = budgets.index(search.published_budget) if search.published_budget in budgets else -1
    marker = {
        "size": [15 if point == published else 8 for point in range(len(budgets))],
        "symbol": ["star" if point == published else "circle" for point in range(len(budgets))],
    }
    line = {"color": _COLOURS[0]}
    for column, x in ((1, budgets), (2, [point.median_ms for point in search.points])):
        trace = go.Scatter(
            x=x,
            y=recalls,
            mode="lines+markers",
            marker=marker,
            line=line,
            name=f"{search.kind} (star: published budget)",
            text=[f"budget {budget:,}" for budget in budgets],
            showlegend=column == 1,
        )
        figure.add_trace(trace, 1, column)
    exact = {"size": 12, "symbol": "diamond", "color": _COLOURS[1]}
    figure.add_trace(go.Scatter(x=[search.exact_ms], y=[1.0], mode="markers", marker=exact, name="exact scan"), 1, 2)
    figure.update_xaxes(type="log", dtick="D2")
    figure.update_xaxes(title_text="search budget", row=1, col=1)
    figure.update_xaxes(title_text="median ms", row=1, col=2)
    figure.update_yaxes(title_text="recall@100", row=1, col=1)
    return _styled(figure)


def popularity_bins(popularity: Popularity) -> list[tuple[str, float, float, float]]:
    """Returns a histogram of the items by number of events, in bins that double in width.

    Each row holds the label of a bin, for instance ``4-7`` events, and the shares of the catalogue, of the events and
    of the recommendations that its items have. Each share sums to 1 over all rows, or to 0 if there are none.
    """
    # log2 rounds just below a power of two for large counts; frexp is exact: 0 -> 0, 1 -> 1, 2-3 -> 2, 4-7 -> 3.
    bins = np.frexp(popularity.events.astype(np.float64))[1]
    count = int(bins.max()) + 1
    shares = [
        np.bincount(bins, weights=weights, minlength=count) / max(float(np.sum(weights)), 1.0)
        for weights in (np.ones(len(bins)), popularity.events, popularity.recommended)
    ]
    labels = [str(2**b // 2) if b < 2 else f"{2 ** (b - 1):,}-{2**b - 1:,}" for b in range(count)]
    items, events, recommended = (share.tolist() for share in shares)
    return list(zip(labels, items, events, recommended, strict=True))


def draw_popularity(popularity: Popularity) -> go.Figure:
    """Returns three bars for each bin of `popularity_bins`."""
    labels, *shares = zip(*popularity_bins(popularity), strict=True)
    figure = go.Figure()
    names = ("items of the catalogue", "known events", "recommended in a top 10")
    for name, values, colour in zip(names, shares, (_OTHER, _COLOURS[4], _COLOURS[5]), strict=True):
        figure.add_bar(x=labels, y=values, name=name, marker_color=colour)
    figure.update_xaxes(title_text="events of the item before the test", type="category")
    figure.update_yaxes(title_text="share", tickformat=".0%")
    return _styled(figure)


def draw_map(item_map: ItemMap) -> go.Figure:
    """Returns a point for each item, with its title on hover; each of the eight largest groups has its own colour."""
    figure = go.Figure()
    groups = np.array(item_map.groups or ["items"] * len(item_map.titles), dtype=object)
    titles = np.array([_plain(title) for title in item_map.titles], dtype=object)
    ranked = [group for group, _ in Counter(groups.tolist()).most_common()]
    shown = ranked[: len(_COLOURS)]
    rest = ~np.isin(groups, shown)
    # The other groups are drawn first, below the coloured ones.
    traces = [(f"{len(ranked) - len(shown)} others", rest, _OTHER, "circle-open")] if rest.any() else []
    for number, group in enumerate(shown):
        traces.append((group, groups == group, _COLOURS[number], _SYMBOLS[number]))
    for name, mask, colour, symbol in traces:
        trace = go.Scatter(
            x=item_map.points[mask, 0].astype(np.float32),
            y=item_map.points[mask, 1].astype(np.float32),
            mode="markers",
            name=_plain(name),
            text=titles[mask].tolist(),
            # The name of the group is shown beside the title, unless <extra></extra> hides it.
            hovertemplate="%{text}" + ("" if item_map.groups else "<extra></extra>"),
            hoverlabel_namelength=-1,
            marker={"size": 6, "color": colour, "symbol": symbol, "opacity": 0.75},
        )
        figure.add_trace(trace)
    for update, share, number in zip(
        (figure.update_xaxes, figure.update_yaxes), item_map.explained, ("first", "second"), strict=True
    ):
        update(title_text=f"{number} principal component, {share:.0%} of the variance", zeroline=False)
    return _styled(figure, height=620, show_legend=bool(item_map.groups))


def draw_all(
    data: ReportData, methods: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> dict[str, go.Figure]:
    """Returns the figures of the page by name; figures without data are left out.

    Args:
        data: Content of the page.
        methods: Metrics by method, the two-tower model first.
        names: Names of the metrics to draw.
    """
    figures: dict[str, go.Figure] = {}
    if data.epochs:
        figures["epochs"] = draw_epochs(data.epochs, data.best_metric)
    if methods and names:
        figures["methods"] = draw_methods(methods, data.evaluation.get("intervals") or {}, names)
    if data.search:
        figures["search"] = draw_search(data.search)
    if data.popularity is not None:
        figures["popularity"] = draw_popularity(data.popularity)
    if data.item_map is not None:
        figures["map"] = draw_map(data.item_map)
    return figures


def _plain(text: str) -> str:
    """Returns `text` escaped so that plotly shows it literally; plotly does not know entities for quotes."""
    return escape(text, quote=False)


def _styled(figure: go.Figure, *, height: int = 380, show_legend: bool = True) -> go.Figure:
    """Returns the figure with a transparent background; ``report.js`` sets the colour of its text."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 60, "r": 20, "t": 60, "b": 90 if show_legend else 50},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        showlegend=show_legend,
        barmode="group",
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": _OTHER},
    )
    figure.update_xaxes(gridcolor=_GRID, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, automargin=True)
    return figure
