"""The tables of ``report.html``. They hold the numbers of the figures too, for readers without JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.bundle.manifest import GateResult
from trainer.publishing.report.charts import popularity_bins
from trainer.publishing.report.page_data import Popularity, SearchCurve

_ORDER = (
    "recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10", "ndcg@20", "ndcg@100", "mrr", "hr@10", "map@10",
    "coverage@10",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell of a table, with a note in smaller print below its text."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: Caption above the table.
        head: [column_count] names of the columns.
        rows: Cells of each row, each [column_count].
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tabulate_epochs(epochs: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a row for each epoch, with a column for every measurement."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    rows = [[Cell(_number(epoch.get(name))) for name in names] for epoch in epochs]
    return Table("Measurements of each epoch; val_ stands for the validation part", names, rows)


def tabulate_methods(
    metrics: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Sequence[float]]]
) -> Table:
    """Returns a row for each method and a column for each metric, with 95 % intervals where they were computed."""
    names = metric_names(metrics.values())
    rows = [
        [Cell(method), *(Cell(_number(v.get(n)), _interval(intervals.get(method, {}).get(n))) for n in names)]
        for method, v in metrics.items()
    ]
    caption = "Test part, full ranking of the catalogue" + (", with 95 % intervals" if intervals else "")
    if "novelty@10" in names:
        caption += (
            "; novelty@10, in bits, is the mean of -log2 of an item's share of the known events: higher means less "
            "popular items; popularity_lift@10 above 0 means that recommendations are more popular than held-out items"
        )
    return Table(caption, ["method", *names], rows)


def tabulate_differences(differences: Mapping[str, Mapping[str, Sequence[float]]], model: str) -> Table:
    """Returns a row for each other method: the metrics of the model minus those of the method, with 95 % intervals.

    Args:
        differences: Difference and both ends of its paired interval, by method and metric.
        model: Name of the model.
    """
    names = metric_names(differences.values())
    rows = []
    for method, by_name in differences.items():
        cells = [by_name.get(name) for name in names]
        rows.append([Cell(method), *(Cell(f"{c[0]:+.4f}", _interval(c[1:])) if c else Cell("") for c in cells)])
    return Table(f"{model} minus each method, on the same users", [f"{model} minus", *names], rows)


def tabulate_groups(caption: str, groups: Mapping[str, Any]) -> Table:
    """Returns a row for each mapping of numbers in nested mappings, named by the keys on its path."""
    flat = list(_flatten(groups))
    names = metric_names([numbers for _, numbers in flat])
    rows = [[Cell(path), *(Cell(_number(numbers.get(name))) for name in names)] for path, numbers in flat]
    return Table(caption, ["", *names], rows)


def tabulate_gates(gates: Mapping[str, GateResult]) -> Table:
    """Returns a row for each publish gate."""
    rows = [
        [
            Cell(name),
            Cell("passed" if result.passed else "FAILED"),
            Cell(_number(result.figure)),
            Cell(_number(result.threshold)),
            Cell(result.message),
        ]
        for name, result in gates.items()
    ]
    return Table("Publish gates", ["gate", "result", "figure", "threshold", "meaning"], rows)


def tabulate_search(search: SearchCurve) -> Table:
    """Returns a row for each search budget, and one for the exact scan."""
    rows = [
        [
            Cell(f"{point.budget:,}", "published" if point.budget == search.published_budget else ""),
            Cell(_number(point.recall_at_100)),
            Cell(_number(point.median_ms)),
            Cell(_number(point.p95_ms)),
            Cell(f"{point.query_count:,}"),
        ]
        for point in search.points
    ]
    rows.append([Cell("exact scan"), Cell("1"), Cell(_number(search.exact_ms)), Cell(""), Cell("")])
    head = ["search budget", "recall@100", "median ms", "95th percentile ms", "queries"]
    return Table("One query at a time, in one process", head, rows)


def tabulate_popularity(popularity: Popularity) -> Table:
    """Returns a row for each bin of `popularity_bins`, with its three shares."""
    rows = [
        [Cell(label), *(Cell(f"{share:.1%}") for share in shares)] for label, *shares in popularity_bins(popularity)
    ]
    head = ["events of the item", "of the catalogue", "of the events", "of the recommendations"]
    return Table("Shares by the popularity of the item", head, rows)


def metric_names(methods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of all metrics of the methods: the usual ones in a fixed order, then others as they appear."""
    names = dict.fromkeys(name for numbers in methods for name in numbers)
    return [name for name in _ORDER if name in names] + [name for name in names if name not in _ORDER]


def _flatten(groups: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the numbers of each mapping in nested mappings, with the keys on its path joined by commas."""
    numbers = {name: value for name, value in groups.items() if isinstance(value, int | float)}
    if numbers:
        yield path, numbers
    for name, value in groups.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}, {name}" if path else name)


def _number(value: Any) -> str:
    """Returns a number as text with about four significant digits, other values unchanged; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _interval(pair: Sequence[float] | None) -> str:
    return f"[{pair[0]:.4f}, {pair[1]:.4f}]" if pair else ""
