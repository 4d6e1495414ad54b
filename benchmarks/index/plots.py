"""Plots how time and size of each kind of index grow with the number of items.

```console
$ python -m benchmarks.index.kinds --items 10000 100000 1000000 --json runs/bench/index-kinds.json
$ python -m benchmarks.index.plots --kinds runs/bench/index-kinds.json --to docs/growth.svg
```
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import print_table

_COLOURS = {
    "exact scan": "#777777",
    "annoy": "#d1495b",
    "faiss_hnsw": "#2e86ab",
    "faiss_ivf": "#3a7d44",
    "hnswlib": "#9cc5dd",
    "qdrant-edge": "#b58db6",
}


def main() -> int:
    """Writes the plots, prints the growth exponents, and returns 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.index.plots", description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", type=Path, required=True, help="JSON file of benchmarks.index.kinds")
    parser.add_argument("--to", type=Path, required=True, help="SVG file to write")
    arguments = parser.parse_args()
    try:
        results = json.loads(arguments.kinds.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(
            f"benchmarks.index.plots: cannot read {arguments.kinds}: {error}; run benchmarks.index.kinds --json",
            file=sys.stderr,
        )
        return 1
    curves = curves_of(results)
    rows = [[name, f"{exponent(points):.2f}"] for name, points in curves.items() if len(points) > 1]
    print_table("growth of the time of a search", ["index", "exponent"], rows)
    draw(curves, arguments.to)
    return 0


def curves_of(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the results by contender, each list by ascending number of items.

    The keys are names of contenders without their parameters.

    Args:
        results: results in the JSON file of `benchmarks.index.kinds`.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda each: each["item_count"]):
        curves.setdefault(result["contender"].split(",")[0], []).append(result)
    return curves


def exponent(points: list[dict[str, Any]]) -> float:
    """Returns the growth exponent of search time: its least-squares slope over the item count, both as logarithms.

    Args:
        points: results of one contender.
    """
    counts, times = zip(*((point["item_count"], point["timing"]["median"]) for point in points), strict=True)
    return float(np.polyfit(np.log(counts), np.log(times), 1)[0])


def draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Writes an SVG of three plots over the number of items: search time, bytes per item, and time to map the file.

    Args:
        curves: results by contender, as `curves_of` returns them.
        path: SVG file to write.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "two-tower", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    from matplotlib import pyplot

    figure: Any
    axes: Any
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for axis, title in zip(axes, ("time of a search, µs", "file, bytes an item", "map the file, ms"), strict=True):
        axis.set(title=title, xlabel="items", xscale="log", yscale="log")
        axis.grid(visible=True, which="major", linewidth=0.4)
    for name, points in curves.items():
        counts, colour = [point["item_count"] for point in points], _COLOURS.get(name, "#000000")
        middle, low, high = ([point["timing"][of] for point in points] for of in ("median", "low", "high"))
        label = f"{name} ({exponent(points):.2f})" if len(points) > 1 else name
        axes[0].plot(counts, middle, marker="o", markersize=3, color=colour, label=label)
        axes[0].fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
        for axis, field in ((axes[1], "bytes_per_item"), (axes[2], "open_ms")):
            if all(point[field] for point in points):
                axis.plot(counts, [point[field] for point in points], marker="o", markersize=3, color=colour)
    figure.legend(loc="outside lower center", ncols=len(curves), frameon=False, title="index (exponent of the time)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
