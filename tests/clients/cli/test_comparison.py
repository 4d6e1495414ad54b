"""The command that compares two bundles, with real services, and with scripted ones for failures."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from tests.clients.conftest import World
from tests.harness import ann_service, query_tower_service
from tests.worlds import GOLDEN_COLUMNS, tower, unit_vectors, wait_for, write_bundle
from two_tower_client import AnnClient, QueryTowerClient
from two_tower_client.cli.comparison import Comparison, Example, Latency, Overlap, Side, Spread, compare
from two_tower_client.cli.main import main
from two_tower_client.cli.recording import RecordedQuery
from two_tower_client.cli.tables import comparison_to_table
from two_tower_client.results import Hit

Output = pytest.CaptureFixture[str]

GOLDEN_QUERIES = [
    {name: column[row] for name, column in GOLDEN_COLUMNS.items() if column[row] is not None} for row in range(4)
]
QUERIES = [RecordedQuery(line, features) for line, features in enumerate(GOLDEN_QUERIES, start=1)]


@contextmanager
def both_services(store: FolderStore, manifest: Manifest, **settings: object) -> Iterator[tuple[str, str]]:
    """Yields the addresses of a query tower and an ANN service with the live and the previous bundle open."""
    with ExitStack() as stack:
        # Their logs would mix with the output of the command line.
        stack.enter_context(capture_logs())
        query_tower = stack.enter_context(query_tower_service(store, **settings))
        ann = stack.enter_context(ann_service(store))
        for service in (query_tower, ann):
            service.wait_for_bundle(manifest.bundle_version)
        wait_for(lambda: len(ann.status().bundles) == 2, "both bundles are open")
        models = {bundle.model_version for bundle in ann.status().bundles}
        wait_for(
            lambda: {model.model_version for model in query_tower.status().models} == models, "their models are open"
        )
        yield f"127.0.0.1:{query_tower.port}", f"127.0.0.1:{ann.port}"


def compared(store: FolderStore, manifest: Manifest, old: str, new: str, k: int) -> Comparison:
    with (
        both_services(store, manifest) as (query_tower_address, ann_address),
        QueryTowerClient(query_tower_address, timeout_s=10) as query_tower,
        AnnClient(ann_address, timeout_s=10) as ann,
    ):
        return compare(query_tower, ann, old, new, QUERIES, k=k)


def test_replays_the_log_of_the_service_against_both_models(store: FolderStore, tmp_path: Path, capsys: Output) -> None:
    first = write_bundle(store)
    second = write_bundle(store, seed=2, catalogue_seed=2)
    log, recorded = tmp_path / "queries.jsonl", tmp_path / "recorded.jsonl"
    with both_services(store, second, query_log=log, query_log_share=1.0) as (query_tower_address, ann_address):
        flags = ["--query-tower", query_tower_address, "--ann", ann_address, "--queries", str(recorded)]
        flags += ["--title", "title"]
        with QueryTowerClient(query_tower_address, timeout_s=10) as client:
            client.embed(GOLDEN_QUERIES)
        wait_for(lambda: log.exists() and log.read_text().count("\n") == 4, "four queries are recorded")
        # A copy, because replayed queries are recorded too.
        recorded.write_bytes(log.read_bytes())

        assert main(["compare", "--from", "live", "--to", second.bundle_version, *flags, "--json"]) == 0
        same = json.loads(capsys.readouterr().out)
        all_ones = {"mean": 1.0, "p10": 1.0, "p50": 1.0, "p90": 1.0, "query_count": 4}
        assert [(each["cutoff"], each["spread"], each["bins"]) for each in same["overlaps"]] == [
            (10, all_ones, [0] * 9 + [4]),
            (100, all_ones, [0] * 9 + [4]),
        ]
        assert same["correlation"] == all_ones
        assert (same["top_score_shift"], same["mean_score_shift"], same["examples"]) == (0.0, 0.0, [])
        assert same["old"]["bundle_version"] == same["new"]["bundle_version"] == second.bundle_version
        assert same["new"]["search"]["p99_ms"] > 0

        assert main(["compare", "--from", "previous", "--to", "live", *flags, "--json"]) == 0
        comparison = json.loads(capsys.readouterr().out)
        assert main(["compare", "--from", first.bundle_version, "--to", "live", *flags, "--limit", "2"]) == 0
        table = capsys.readouterr().out
        assert main(["compare", "--from", "20200101T000000Z-000000", "--to", "live", *flags]) == 1
        assert capsys.readouterr().err == (
            f"two-tower: --from: bundle 20200101T000000Z-000000 is not open at ipv4:{ann_address}; "
            f"open are {second.bundle_version}, {first.bundle_version}, the live one first\n"
        )

    # The expected values, by an exact scan in NumPy.
    tops = []
    for seed in (1, 2):
        scores = tower(seed).golden_embeddings @ unit_vectors(300, seed).T  # [4, 300]
        tops.append((np.argsort(-scores, axis=1)[:, :10].tolist(), scores.max(axis=1)))
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(tops[0][0], tops[1][0], strict=True)]
    assert comparison["overlaps"][0]["spread"]["mean"] == pytest.approx(np.mean(shares))
    assert comparison["top_score_shift"] == pytest.approx(np.mean(tops[1][1]) - np.mean(tops[0][1]), abs=1e-5)
    assert [comparison["old"]["bundle_version"], comparison["new"]["bundle_version"]] == [
        first.bundle_version,
        second.bundle_version,
    ]
    worst = comparison["examples"][0]
    row = worst["line"] - 1
    assert worst["overlap"] == min(shares)
    for side, top in zip(("old", "new"), tops, strict=True):
        assert [hit["item_id"] for hit in worst[side]] == [f"i{item}" for item in top[0][row]]
        title = {f"i{item}": None if item % 11 == 0 else f"Title {item % 50}" for item in range(300)}
        assert [hit["attributes"]["title"] for hit in worst[side]] == [title[hit["item_id"]] for hit in worst[side]]
    assert re.search(rf"bundle +{first.bundle_version} +{second.bundle_version} +-\n", table)
    assert re.search(r"overlap@10 ( +[0-9.]{5}){4} +2\n", table)


def test_negated_vectors_reverse_the_ranking(store: FolderStore) -> None:
    first = write_bundle(store, item_count=10)
    second = write_bundle(store, item_count=10, model_version=first.model_version, vectors=lambda vectors: -vectors)
    comparison = compared(store, second, "previous", "live", 100)
    # Both bundles return all ten items, in opposite order.
    assert [each.spread.mean for each in comparison.overlaps] == [1.0, 1.0]
    assert comparison.correlation == Spread(-1.0, -1.0, -1.0, -1.0, 4)
    scores = tower(1).golden_embeddings @ unit_vectors(10, 1).T  # [4, 10]
    shift = float(np.mean(-scores.min(axis=1) - scores.max(axis=1)))
    assert comparison.top_score_shift == pytest.approx(shift, abs=1e-5)
    assert comparison.mean_score_shift == pytest.approx(-2 * float(scores.mean()), abs=1e-5)
    assert comparison.old.model_version == comparison.new.model_version


def test_half_a_catalogue_overlaps_by_half(store: FolderStore) -> None:
    first = write_bundle(store, item_count=10)
    second = write_bundle(store, item_count=5, model_version=first.model_version)
    comparison = compared(store, second, first.bundle_version, second.bundle_version, 10)
    # The second bundle has the first five items, with the same vectors and therefore in the same order.
    assert [(each.cutoff, each.spread.mean) for each in comparison.overlaps] == [(10, 0.5)]
    assert comparison.correlation == Spread(1.0, 1.0, 1.0, 1.0, 4)
    assert [(example.line, len(example.old), len(example.new)) for example in comparison.examples] == [
        (1, 10, 5),
        (2, 10, 5),
        (3, 10, 5),
        (4, 10, 5),
    ]


def queries_file(folder: Path, *features: dict[str, object]) -> str:
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps({"features": each}) + "\n" for each in features))
    return str(path)


def test_counts_features_that_the_model_does_not_read(world: World, tmp_path: Path, capsys: Output) -> None:
    queries = queries_file(
        tmp_path,
        {"age": 0, "hue": "red"},
        {"age": [90.0], "hue": "blue"},
        {"age": "old", "history": []},
        {"age": [1, 2]},
    )
    assert main(["compare", "--from", "live", "--to", "b1", *world.flags, "--queries", queries]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "! model m1 does not read feature 'age': left out of 2 queries",
        "",
        "! model m1 does not read feature 'hue': left out of 2 queries",
    ]
    queries_sent = world.query_tower.requests[-1].queries
    assert [query.features["age"].WhichOneof("kind") for query in queries_sent] == ["ints", "floats", None, None]
    assert not any("hue" in query.features for query in queries_sent)


def test_batches_fit_both_services(world: World, tmp_path: Path) -> None:
    queries = queries_file(tmp_path, *[{"age": age} for age in range(70)])
    assert main(["compare", "--from", "b1", "--to", "live", *world.flags, "--queries", queries, "--k", "3"]) == 0
    searches = [len(request.searches) for request in world.ann.requests if hasattr(request, "searches")]
    assert searches == [32, 32, 32, 32, 6, 6]
    assert {(request.model_version, request.bundle_version) for request in world.ann.requests[1:]} == {("m1", "b1")}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from", "previous"], 1, "--from: there is no previous bundle at ipv4:ANN; open are b1, the live one first"),
        (["--from", "b7"], 1, "--from: bundle b7 is not open at ipv4:ANN; open are b1, the live one first"),
        (["--title", "name"], 2, "--title: items of bundle b1 have no attribute 'name'; there are genres, title, year"),
        (["--k", "101"], 2, "--k: has to be 1 to 100, got 101"),
        (["--queries", "/nowhere"], 2, "--queries: cannot read '/nowhere': No such file or directory"),
    ],
)
def test_says_what_is_wrong(
    world: World, tmp_path: Path, capsys: Output, arguments: list[str], code: int, message: str
) -> None:
    queries = queries_file(tmp_path, {"age": 1})
    flags = ["--from", "live", "--to", "live", *world.flags, "--queries", queries, *arguments]
    assert main(["compare", *flags]) == code
    assert capsys.readouterr().err.replace(world.ann_address, "ANN") == f"two-tower: {message}\n"


def test_says_that_the_query_tower_lacks_the_model(world: World, tmp_path: Path, capsys: Output) -> None:
    world.ann.bundles = [("b1", "m1"), ("b0", "m0")]
    queries = queries_file(tmp_path, {"age": 1})
    assert main(["compare", "--from", "previous", "--to", "live", *world.flags, "--queries", queries]) == 1
    assert capsys.readouterr().err.endswith("does not have model m0 of bundle b0 open; it serves m1\n")


def test_says_that_nothing_is_loaded(world: World, tmp_path: Path, capsys: Output) -> None:
    world.ann.bundles = []
    queries = queries_file(tmp_path, {"age": 1})
    assert main(["compare", "--from", "previous", "--to", "live", *world.flags, "--queries", queries]) == 1
    assert "has loaded no bundle yet" in capsys.readouterr().err


COMPARISON = Comparison(
    Side("b1", "m1", 0.9, 0.5, Latency(0.01, 0.02), Latency(0.1, 0.2), {}),
    Side("b2", "m2", 0.8, 0.6, Latency(0.01, 0.03), Latency(0.1, 0.1), {"<hue>": 3}),
    query_count=3,
    k=2,
    overlaps=(Overlap(2, Spread(0.5, 0.1, 0.5, 0.9, 3), (1, 0, 0, 0, 0, 1, 0, 0, 0, 1)),),
    correlation=None,
    top_score_shift=-0.1,
    mean_score_shift=0.1,
    title="title",
    examples=(
        Example(
            7,
            {"history": ["50", "181"], "age": 24.0, "city": "<script>alert(1)</script>"},
            0.5,
            (Hit("50", 0.9, {"title": "<b>Star</b> & Wars"}), Hit("7", 0.8, {"title": None})),
            (Hit("9", 0.7, {"title": "Nine"}), Hit("50", 0.6, {"title": "<b>Star</b> & Wars"})),
        ),
    ),
)


def test_prints_both_bundles_side_by_side() -> None:
    assert comparison_to_table(COMPARISON).splitlines() == [
        "                             old     new     new - old",
        "bundle                       b1      b2      -",
        "model                        m1      m2      -",
        "mean top score               0.9000  0.8000  -0.1000",
        "mean score                   0.5000  0.6000  +0.1000",
        "embed median, ms per query   0.010   0.010   +0.000",
        "embed p99, ms per query      0.020   0.030   +0.010",
        "search median, ms per query  0.100   0.100   +0.000",
        "search p99, ms per query     0.200   0.100   -0.100",
        "",
        "agreement  mean   p10    p50    p90    queries",
        "overlap@2  0.500  0.100  0.500  0.900  3",
        "",
        "! model m2 does not read feature '<hue>': left out of 3 queries",
        "",
        "line 7, overlap 0.50: age=24.0 city=<script>alert(1)</script> history=50,181",
        "rank  in b1                  score   in b2                  score",
        "1     50 <b>Star</b> & Wars  0.9000  + 9 Nine               0.7000",
        "2     - 7                    0.8000  50 <b>Star</b> & Wars  0.6000",
        "",
        "-: in the results of the old bundle only, +: of the new bundle only",
    ]
