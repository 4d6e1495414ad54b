"""The report: what it measures, and a page that shows hostile data without obeying it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

from bundle.items import ItemTable, StringColumn, StringListColumn
from bundle.manifest import GateResult
from bundle.store import BundleStore
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command
from trainer import report, report_measures
from trainer.data import Events
from trainer.report_data import (
    Example,
    HeldOutItem,
    ItemMap,
    Popularity,
    Recommendation,
    ReportData,
    SearchCurve,
    SearchPoint,
)
from trainer.report_figures import draw_map, draw_methods, popularity_bins

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
            [SearchPoint(50, 0.875, 0.0625, 0.125, 200), SearchPoint(100, 0.9675, 0.25, 0.5, 200)], 100, 0.03
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
    harmless, hostile = Page(report.render(full_data())), Page(report.render(full_data(HOSTILE)))
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
    text = report.render(full_data("</script><b>x</b> & 'y' \"z\""))
    figures = Page(text).figures()
    assert set(figures) == {"epochs", "methods", "search", "popularity", "map"}
    # Plotly takes a few tags in labels, and decodes these entities: so the reader sees the title as it is.
    escaped = "&lt;/script&gt;&lt;b&gt;x&lt;/b&gt; &amp; 'y' \"z\""
    by_group = {trace["name"]: trace for trace in figures["map"]["data"]}
    assert set(by_group) == {escaped, "x"}
    assert by_group[escaped]["text"] == [escaped]
    assert figures["methods"]["data"][0]["y"] == ["two-tower", escaped]


def test_page_loads_nothing_and_runs_its_own_scripts_alone() -> None:
    page = Page(report.render(full_data(HOSTILE)))
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
    _, draw = Page(report.render(full_data())).running()
    assert re.search(r"showSendToCloud: false", draw)
    assert re.search(r'plotlyServerURL: ""', draw)


def test_tables_say_what_the_figures_show() -> None:
    text = "|".join(Page(report.render(full_data())).texts)
    for expected in (
        "|2|5.1250|0.0987|3.2500|",  # an epoch
        "|two-tower|0.1100|[0.1000, 0.1222]|",  # a method
        "|Heat|0.0723|",
        "|Heat|+0.0377|[0.0220, 0.0530]|",  # the difference to it
        "|Heat, two-tower|0.0789|",  # a slice
        "|beats_popularity/ndcg@10|FAILED|0.1100|0.0450|is less: Heat|",
        "|50|0.8750|0.0625|0.1250|200|",
        "|100|as published|0.9675|0.2500|0.5000|200|",
        "|exact scan|1|0.0300|",
        "|4-7|33.3%|83.3%|80.0%|",  # 1 of 3 items, 5 of 6 events, 8 of 10 recommendations
        "|Heat |0.9876 ✓ held out|",
    ):
        assert expected in re.sub(r"\|(\s*\|)+", "|", text), expected


def test_page_leaves_out_what_was_not_measured() -> None:
    page = Page(report.render(ReportData(title="empty")))
    assert [a["id"] for t, a in page.tags if t == "section"] == ["summary"]
    assert page.scripts == []


@pytest.mark.parametrize("left_out", ["epochs", "evaluation", "gates", "search", "popularity", "item_map", "examples"])
def test_page_does_without_any_one_section(left_out: str) -> None:
    empty = getattr(ReportData(title=""), left_out)
    page = Page(report.render(replace(full_data(), **{left_out: empty})))
    anchors = {a["href"] for t, a in page.tags if t == "a"}
    assert anchors == {f"#{a['id']}" for t, a in page.tags if t == "section"}
    assert len(anchors) == 7


def test_newest_note_stands_first_and_is_escaped() -> None:
    page = report.add_note(report.add_note(report.render(ReportData(title="t")), "first"), "second <b>")
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


def unit(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    vectors = generator.normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_recall_by_budget_is_that_of_a_plain_search(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    vectors, queries = unit(generator, 500, 16), unit(generator, 30, 16)
    index = AnnoyIndex(16, "angular")
    index.set_seed(1)
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(5, n_jobs=1)
    index.save(str(tmp_path / "index.ann"))

    curve = report_measures.measure_search(tmp_path / "index.ann", vectors, queries, 320)

    assert [point.budget for point in curve.points] == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert curve.published_budget == 320
    for point in curve.points:
        found = [
            len(set(index.get_nns_by_vector(query, 100, point.budget)) & set(np.argsort(-(vectors @ query))[:100]))
            for query in queries[: point.query_count]
        ]
        assert point.recall_at_100 == pytest.approx(sum(found) / (100 * len(found)))
        assert 20 <= point.query_count <= 30
        assert 0 < point.median_ms <= point.p95_ms
    assert curve.points[0].recall_at_100 < 0.5 < 0.9 < curve.points[-1].recall_at_100
    assert curve.exact_ms > 0


def test_recall_counts_all_items_of_a_small_catalogue(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(3), 7, 4)
    index = AnnoyIndex(4, "angular")
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(3, n_jobs=1)
    index.save(str(tmp_path / "index.ann"))
    curve = report_measures.measure_search(tmp_path / "index.ann", vectors, vectors[:2], 100)
    assert curve.points[-1].recall_at_100 == 1.0
    assert curve.points[-1].query_count == 2


def events(pairs: list[tuple[int, int]]) -> Events:
    users, items = (np.array(column, dtype=np.int32) for column in zip(*pairs, strict=True))
    return Events(users, items, np.arange(len(pairs), dtype=np.float64), np.ones(len(pairs), dtype=np.float32))


# Twelve items on a quarter circle: item i points i * 5 degrees up, so that a query along x ranks them by their row.
CIRCLE = np.array([[math.cos(math.radians(5 * i)), math.sin(math.radians(5 * i))] for i in range(12)], dtype=np.float32)
ALONG_X, ALONG_LAST = np.array([1, 0], dtype=np.float32), CIRCLE[11]


def test_popularity_counts_top_10s_without_known_items() -> None:
    known = events([(0, 0), (0, 3), (1, 0), (2, 11)])
    users = np.array([2, 0])
    found = report_measures.measure_popularity(users, np.stack([ALONG_X, ALONG_LAST]), CIRCLE, known)
    assert found.user_count == 2
    assert found.events.tolist() == [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    # User 2 gets the items 0 to 9. User 0 gets those from 11 down, without 3 and 0: 11 to 4, 2, 1.
    assert found.recommended.tolist() == [1, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1, 1]


def test_popularity_never_counts_known_items_even_where_too_few_others_are_left() -> None:
    known = events([(0, item) for item in range(9)])
    found = report_measures.measure_popularity(np.array([0]), ALONG_X[None], CIRCLE, known)
    assert found.recommended.tolist() == [0] * 9 + [1] * 3


def test_examples_show_newest_history_ranks_and_held_out_items() -> None:
    known = events([(0, 2), (0, 0), (1, 5), (2, 4), (2, 4)])
    test = events([(0, 3), (0, 11), (1, 5)])
    titles = [f"t{item}" for item in range(12)]
    users = np.array([1, 2, 0])
    queries = np.stack([ALONG_LAST, ALONG_X, ALONG_X])
    first, second, third = report_measures.choose_examples(["a", "b", "c"], titles, known, test, users, queries, CIRCLE)
    assert (first.user, second.user, third.user) == ("a", "b", "c")  # only a has a held-out item that is new
    assert list(first.history) == ["t0", "t2"]
    assert first.known_count == 2
    # Without 0 and 2 the ranking along x is 1, 3, 4, ... 11: 3 is the second, 11 the tenth.
    assert [r.title for r in first.recommendations] == ["t1", "t3", *(f"t{item}" for item in range(4, 12))]
    assert [r.title for r in first.recommendations if r.held_out] == ["t3", "t11"]
    assert [(item.title, item.rank) for item in first.held_out] == [("t3", 2), ("t11", 10)]
    assert first.recommendations[0].score == pytest.approx(math.cos(math.radians(5)), abs=1e-6)
    assert list(second.held_out) == []  # b had item 5 already
    assert list(third.history) == ["t4", "t4"]
    assert third.known_count == 1


def test_at_most_ten_users_are_shown() -> None:
    known, test = events([(user, 0) for user in range(15)]), events([(user, 1) for user in range(5, 15)])
    ids = [f"u{user:02}" for user in range(15)]
    queries = np.tile(ALONG_X, (15, 1))
    found = report_measures.choose_examples(ids, ["t"] * 12, known, test, np.arange(15), queries, CIRCLE)
    assert [example.user for example in found] == ids[5:]


def table(**attributes: StringColumn | StringListColumn) -> ItemTable:
    return ItemTable.of(("i0", "i1", "i2"), attributes)


def test_titles_are_of_the_attribute_title_or_name_else_ids() -> None:
    title, name = StringColumn.of(["Alien", None, ""]), StringColumn.of(["a", "b", "c"])
    assert report_measures.item_titles(table(name=name, title=title)) == ["Alien", "i1", "i2"]
    assert report_measures.item_titles(table(name=name)) == ["a", "b", "c"]
    assert report_measures.item_titles(table()) == ["i0", "i1", "i2"]
    assert report_measures.item_titles(table(title=StringListColumn.of([["x"], ["y"], []]))) == ["i0", "i1", "i2"]


def test_map_is_the_principal_components_most_popular_first() -> None:
    # On a line of slope 3/4 at -1, 0 and 1 times (4, 3): one direction, (0.8, 0.6), with all of the variance.
    vectors = np.array([[4, 3], [0, 0], [-4, -3]], dtype=np.float32)
    genres = StringListColumn.of([["drama", "war"], None, ["war"]])
    items = table(title=StringColumn.of(["A", "B", "C"]), genres=genres)
    found = report_measures.map_items(vectors, np.array([1, 9, 4]), items, ["A", "B", "C"])
    assert found is not None
    assert list(found.titles) == ["B", "C", "A"]
    assert found.points[:, 0] == pytest.approx([0, -5, 5])
    assert found.points[:, 1] == pytest.approx([0, 0, 0], abs=1e-9)
    assert found.explained == pytest.approx((1.0, 0.0))
    assert (found.group_name, list(found.groups)) == ("genres", ["none", "war", "drama"])


def test_map_has_no_colours_without_an_attribute_of_few_values() -> None:
    items = table(title=StringColumn.of(["A", "B", "A"]), maker=StringColumn.of(["x", "x", "x"]))
    found = report_measures.map_items(np.eye(3, dtype=np.float32), np.ones(3), items, ["A", "B", "A"])
    assert found is not None
    assert (found.group_name, list(found.groups)) == ("", [])


def test_map_of_equal_vectors_has_no_variance_to_share() -> None:
    found = report_measures.map_items(np.ones((3, 2), dtype=np.float32), np.ones(3), table(), ["A", "B", "C"])
    assert found is not None
    assert found.explained == (0.0, 0.0)
    assert report_measures.map_items(np.eye(2, dtype=np.float32), np.ones(2), table(), ["A", "B"]) is None


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


def test_fresh_items_keep_the_report_with_a_note(shop: Shop, tmp_path: Path) -> None:
    store = BundleStore(shutil.copytree(shop.store.root, tmp_path / "store"))
    base = store.live().version
    result = json.loads(command("add-items", "--store", store.root, "--remove-id", "p05", "--json"))
    store.verify(result["bundle_version"])
    old = (store.path(base) / "report.html").read_text(encoding="utf-8")
    new = (store.path(result["bundle_version"]) / "report.html").read_text(encoding="utf-8")
    note = re.search(r"\n<p class=.note. role=.note.>(This page .*?)</p>", new)
    assert f"that of bundle {base}, before 0 items were added, 0 changed and 1 removed" in note[1]
    assert new.replace(note[0], "") == old


def test_fresh_items_of_a_bundle_without_a_report_have_none(shop: Shop, tmp_path: Path) -> None:
    store = BundleStore(shutil.copytree(shop.store.root, tmp_path / "store"))
    base = store.live().version
    folder = store.path(base)
    raw = json.loads((folder / "manifest.json").read_text())
    del raw["files"]["report.html"]
    (folder / "manifest.json").write_text(json.dumps(raw))
    (folder / "report.html").unlink()
    result = json.loads(command("add-items", "--store", store.root, "--remove-id", "p05", "--json"))
    assert "report.html" not in store.verify(result["bundle_version"]).files
