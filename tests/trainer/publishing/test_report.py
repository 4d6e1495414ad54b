"""The report page: hostile data in it is escaped, tables equal the figures, and bundles contain it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from retrieval.bundle.manifest import GateResult
from retrieval.store.folder_store import FolderStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from trainer.publishing.report.charts import draw_map, draw_methods, popularity_bins
from trainer.publishing.report.page import add_note, render
from trainer.publishing.report.page_data import (
    Example,
    HeldOutItem,
    ItemMap,
    Popularity,
    Recommendation,
    ReportData,
    SearchCurve,
    SearchPoint,
)

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!-- {{ 7 * 7 }}"


class Page(HTMLParser):
    """Elements, scripts and text of a page, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._in_script = True
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.texts.append(data)

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}

    def figures(self) -> dict[str, dict]:
        names = [attributes["data-figure"] for tag, attributes in self.tags if tag == "figure"]
        blocks = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        return dict(zip(names, map(json.loads, blocks), strict=True))

    def running(self) -> list[str]:
        return [text for attributes, text in self.scripts if "type" not in attributes]


def full_data(text: str = "Heat") -> ReportData:
    """All sections, with `text` wherever the data of a person may stand."""
    return ReportData(
        title=text,
        facts={"Note 1": text, "Users": "943"},
        recipe={"name": text, "gates": {"metrics": ["ndcg@10"]}},
        epochs=[
            {"epoch": 1, "loss": 6.25, "val_ndcg@10": 0.0512, "seconds": 3.5},
            {"epoch": 2, "loss": 5.125, "val_ndcg@10": 0.0987, "seconds": 3.25},
        ],
        evaluation={
            "metrics": {"two-tower": {"ndcg@10": 0.11}, text: {"ndcg@10": 0.0723}},
            "intervals": {"two-tower": {"ndcg@10": [0.1, 0.1222]}},
            "differences": {text: {"ndcg@10": [0.0377, 0.022, 0.053]}},
            "slices": {text: {"two-tower": {"ndcg@10": 0.0789}}},
            "user_count": 943,
        },
        gates={"beats_popularity/ndcg@10": GateResult(0.11, 0.045, False, f"is less: {text}")},
        search=SearchCurve(
            "annoy", [SearchPoint(50, 0.875, 0.0625, 0.125, 200), SearchPoint(100, 0.9675, 0.25, 0.5, 200)], 100, 0.03
        ),
        popularity=Popularity(np.array([0, 1, 5]), np.array([0, 2, 8]), 1),
        item_map=ItemMap(
            np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), [text, "b", "c"], [text, "x", "x"], text, (0.5, 0.25), 3
        ),
        examples=[
            Example(text, [text, "Alien"], 2, [Recommendation(text, 0.9876, True)], [HeldOutItem(text, 1)]),
        ],
    )


def test_data_never_becomes_markup() -> None:
    harmless, hostile = Page(render(full_data())), Page(render(full_data(HOSTILE)))
    assert hostile.tags == [
        (tag, {name: value and value.replace("Heat", HOSTILE) for name, value in attributes.items()})
        for tag, attributes in harmless.tags
    ]
    assert "img" not in hostile.names()
    assert hostile.running() == harmless.running()
    assert len(hostile.running()) == 2  # plotly and what calls it
    shown = "|".join(harmless.texts)
    assert shown.count("Heat") > 9
    # Every word of it can be read, where "Heat" stood; in the recipe, which is JSON, with its quote behind a backslash.
    in_recipe = shown.replace('"name": "Heat"', '"name": "' + HOSTILE.replace('"', '\\"') + '"')
    assert "|".join(hostile.texts) == in_recipe.replace("Heat", HOSTILE)


def test_data_inside_a_figure_is_neither_a_tag_of_the_page_nor_of_plotly() -> None:
    text = render(full_data("</script><b>x</b> & 'y' \"z\""))
    figures = Page(text).figures()
    assert set(figures) == {"epochs", "methods", "search", "popularity", "map"}
    # Plotly takes a few tags in labels, and decodes these entities: so the reader sees the title as it is.
    escaped = "&lt;/script&gt;&lt;b&gt;x&lt;/b&gt; &amp; 'y' \"z\""
    by_group = {trace["name"]: trace for trace in figures["map"]["data"]}
    assert set(by_group) == {escaped, "x"}
    assert by_group[escaped]["text"] == [escaped]
    assert figures["methods"]["data"][0]["y"] == ["two-tower", escaped]


def test_page_loads_nothing_and_runs_its_own_scripts_alone() -> None:
    page = Page(render(full_data(HOSTILE)))
    links = [
        v for _, attributes in page.tags for n, v in attributes.items() if n in ("src", "href", "srcset", "action")
    ]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not page.names() & {"link", "iframe", "object", "embed", "form", "base"}
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.running()}
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert set(directives["script-src"].split()) == {f"'sha256-{digest}'" for digest in hashes}


def test_page_has_no_button_that_uploads_a_chart() -> None:
    _, draw = Page(render(full_data())).running()
    assert re.search(r"showSendToCloud: false", draw)
    assert re.search(r'plotlyServerURL: ""', draw)


def test_tables_say_what_the_figures_show() -> None:
    text = "|".join(Page(render(full_data())).texts)
    for expected in (
        "|2|5.1250|0.0987|3.2500|",  # an epoch
        "|two-tower|0.1100|[0.1000, 0.1222]|",  # a method
        "|Heat|0.0723|",
        "|Heat|+0.0377|[0.0220, 0.0530]|",  # the difference to it
        "|Heat, two-tower|0.0789|",  # a slice
        "|beats_popularity/ndcg@10|FAILED|0.1100|0.0450|is less: Heat|",
        "|50|0.8750|0.0625|0.1250|200|",
        "|100|published|0.9675|0.2500|0.5000|200|",
        "|exact scan|1|0.0300|",
        "|4-7|33.3%|83.3%|80.0%|",  # 1 of 3 items, 5 of 6 events, 8 of 10 recommendations
        "|Heat |0.9876 ✓ held out|",
    ):
        assert expected in re.sub(r"\|(\s*\|)+", "|", text), expected


def test_page_leaves_out_what_was_not_measured() -> None:
    page = Page(render(ReportData(title="empty")))
    assert [a["id"] for t, a in page.tags if t == "section"] == ["summary"]
    assert page.scripts == []


@pytest.mark.parametrize("left_out", ["epochs", "evaluation", "gates", "search", "popularity", "item_map", "examples"])
def test_page_does_without_any_one_section(left_out: str) -> None:
    empty = getattr(ReportData(title=""), left_out)
    page = Page(render(replace(full_data(), **{left_out: empty})))
    anchors = {a["href"] for t, a in page.tags if t == "a"}
    assert anchors == {f"#{a['id']}" for t, a in page.tags if t == "section"}
    assert len(anchors) == 7


def test_newest_note_stands_first_and_is_escaped() -> None:
    page = add_note(add_note(render(ReportData(title="t")), "first"), "second <b>")
    notes = re.findall(r'<p class="note" role="note">(.*?)</p>', page)
    assert notes[:2] == ["second &lt;b&gt;", "first"]


def test_popularity_is_binned_by_powers_of_two() -> None:
    popularity = Popularity(np.array([0, 1, 2, 3, 4, 7, 8, 0]), np.array([0, 0, 1, 1, 0, 2, 6, 0]), 1)
    # 8 items, 25 events, 10 recommendations.
    expected = [
        ("0", 2 / 8, 0.0, 0.0),
        ("1", 1 / 8, 1 / 25, 0.0),
        ("2-3", 2 / 8, 5 / 25, 2 / 10),
        ("4-7", 2 / 8, 11 / 25, 2 / 10),
        ("8-15", 1 / 8, 8 / 25, 6 / 10),
    ]
    found = popularity_bins(popularity)
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert np.array([row[1:] for row in found]) == pytest.approx(np.array([row[1:] for row in expected]))


def test_bins_of_nothing_are_empty_and_not_undefined() -> None:
    assert popularity_bins(Popularity(np.array([0, 0]), np.array([0, 0]), 0)) == [("0", 1.0, 0.0, 0.0)]


def test_intervals_reach_from_the_metric_to_both_ends() -> None:
    figure = draw_methods({"a": {"mrr": 0.5}, "b": {"mrr": 0.25}}, {"a": {"mrr": [0.375, 0.75]}}, ["mrr"])
    bars = figure.data[0].error_x
    assert list(bars.arrayminus) == [0.125, 0]
    assert list(bars.array) == [0.25, 0]


def test_map_gives_a_colour_to_eight_groups_and_one_to_the_rest() -> None:
    # Group g has 12 - g items: the groups 8, 9 and 10 are the rest, with 4, 3 and 2 items.
    groups = [f"g{group}" for group in range(11) for _ in range(12 - group)]
    item_map = ItemMap(np.zeros((len(groups), 2)), groups, groups, "genre", (0.5, 0.5), len(groups))
    traces = draw_map(item_map).data
    assert [trace.name for trace in traces] == ["3 others", *(f"g{group}" for group in range(8))]
    assert [len(trace.text) for trace in traces] == [9, 12, 11, 10, 9, 8, 7, 6, 5]


def test_published_bundle_lists_a_report_of_itself(shop: Shop) -> None:
    version = shop.versions[0]
    manifest = shop.store.verify(version)
    path = shop.store.path(version) / "report.html"
    assert manifest.files["report.html"].size_bytes == path.stat().st_size < 6_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert [a["id"] for t, a in page.tags if t == "section"] == [
        "summary", "training", "metrics", "gates", "search", "popularity", "map", "users",
    ]  # fmt: skip
    text = "|".join(page.texts)
    for expected in (version, manifest.model_version, "60 test", f"{manifest.metrics['ndcg@10']:.4f}"):
        assert expected in text, expected
    assert len([t for t, _ in page.tags if t == "article"]) == 10
    points = [title for trace in page.figures()["map"]["data"] for title in trace["text"]]
    assert sorted(points) == sorted(f"Title {item}, the film" for item in range(40))
    assert {trace["name"] for trace in page.figures()["map"]["data"]} == {"comedy", "drama", "horror", "western"}


def test_a_catalogue_update_keeps_the_report_with_a_note(shop: Shop, tmp_path: Path) -> None:
    store = FolderStore(shutil.copytree(shop.store.root, tmp_path / "store"))
    base = store.live().version
    result = json.loads(command("add-items", "--store", store.root, "--remove-id", "p05", "--json"))
    store.verify(result["bundle_version"])
    old = (store.path(base) / "report.html").read_text(encoding="utf-8")
    new = (store.path(result["bundle_version"]) / "report.html").read_text(encoding="utf-8")
    note = re.search(r"\n<p class=.note. role=.note.>(This page .*?)</p>", new)
    assert f"that of bundle {base}, before 0 items were added, 0 changed and 1 removed" in note[1]
    assert new.replace(note[0], "") == old


def test_a_catalogue_update_of_a_bundle_without_a_report_has_none(shop: Shop, tmp_path: Path) -> None:
    store = FolderStore(shutil.copytree(shop.store.root, tmp_path / "store"))
    base = store.live().version
    folder = store.path(base)
    raw = json.loads((folder / "manifest.json").read_text())
    del raw["files"]["report.html"]
    (folder / "manifest.json").write_text(json.dumps(raw))
    (folder / "report.html").unlink()
    result = json.loads(command("add-items", "--store", store.root, "--remove-id", "p05", "--json"))
    assert "report.html" not in store.verify(result["bundle_version"]).files
