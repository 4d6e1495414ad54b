"""Plots of search time, bytes per item and opening time over the number of items, and the growth exponent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.index import plots


def result(contender: str, item_count: int, median: float, open_ms: float = 1.0) -> dict[str, Any]:
    timing = {"median": median, "low": median / 2, "high": median * 2}
    return {
        "contender": contender,
        "item_count": item_count,
        "timing": timing,
        "bytes_per_item": 400.0,
        "open_ms": open_ms,
    }


def test_the_exponent_is_the_slope_on_logarithmic_axes() -> None:
    # Ten times the items, ten times the time: 1. A hundred times the items, ten times the time: 1/2.
    curves = plots.curves_of(
        [result("a, trees 5", 1000, 30.0), result("b", 10_000, 70.0), result("a, trees 9", 100, 3.0)]
    )
    assert {name: [point["item_count"] for point in points] for name, points in curves.items()} == {
        "a": [100, 1000],
        "b": [10_000],
    }
    assert plots.exponent(curves["a"]) == pytest.approx(1.0)
    assert plots.exponent([result("c", 10, 1.0), result("c", 1000, 10.0)]) == pytest.approx(0.5)


def test_draws_every_contender_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="of the extra bench")
    figures = tmp_path / "kinds.json"
    figures.write_text(json.dumps([result(n, c, c / 9, 0.0) for n in ("annoy", "hnswlib") for c in (10, 100)]))
    drawn: list[str] = []
    for name in ("one.svg", "two.svg"):
        monkeypatch.setattr(
            "sys.argv", ["benchmarks.index.plots", "--kinds", str(figures), "--to", str(tmp_path / name)]
        )
        assert plots.main() == 0
        drawn.append((tmp_path / name).read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1]
    assert ">annoy (1.00)</text>" in drawn[0]
    assert ">hnswlib (1.00)</text>" in drawn[0]


def test_says_how_to_get_the_figures_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.index.plots", "--kinds", str(tmp_path / "no.json"), "--to", "x.svg"])
    assert plots.main() == 1
    assert "run benchmarks.index.kinds --json" in capsys.readouterr().err
