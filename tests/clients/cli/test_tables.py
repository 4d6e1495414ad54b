"""Tables and JSON that the command line prints."""

import json
from dataclasses import replace

from two_tower_client.cli import tables
from two_tower_client.cli.escaping import escape
from two_tower_client.fleet import Problem, Replica
from two_tower_client.results import FacetCounts, Retrieval

RETRIEVAL = Retrieval(
    ("50", "1000"),
    (0.98765, -0.5),
    {"title": ("Star\tWars", None), "genres": (("Action", "Sci-Fi"), ())},
    "m1",
    "b1",
)


def test_columns_are_aligned() -> None:
    assert tables.retrieval_to_table(RETRIEVAL).splitlines() == [
        "rank  item  score    title      genres",
        "1     50    0.9877   Star Wars  Action, Sci-Fi",
        "2     1000  -0.5000  -          -",
        "",
        "model m1, bundle b1",
    ]


RERANKED = replace(
    RETRIEVAL,
    attributes={},
    boosts=(0.0, 0.25),
    marginal_relevances=(0.5, -0.125),
    facets={"genres": FacetCounts({"Drama": 9, "Sci-Fi": 7}, 4, 1), "year": FacetCounts({}, 0, 12)},
    candidate_count=12,
    shortened_by_group_limits=True,
)


def test_facets_and_full_groups_are_told_below_the_items() -> None:
    assert tables.retrieval_to_table(RERANKED).splitlines()[3:] == [
        "",
        "genres of 12 candidates: Drama 9, Sci-Fi 7, … (4 values), without 1",
        "year of 12 candidates: no values, without 12",
        "model m1, bundle b1",
        "! fewer items than --k: all other candidates are in full groups; raise --candidates-limit or --at-most",
    ]


def test_json_of_facets_boosts_and_marginal_relevances() -> None:
    assert json.loads(tables.retrieval_to_json(RERANKED)) == {
        "model_version": "m1",
        "bundle_version": "b1",
        "candidate_count": 12,
        "shortened_by_group_limits": True,
        "facets": {
            "genres": {
                "counts": [{"value": "Drama", "count": 9}, {"value": "Sci-Fi", "count": 7}],
                "distinct_count": 4,
                "missing_count": 1,
            },
            "year": {"counts": [], "distinct_count": 0, "missing_count": 12},
        },
        "items": [
            {"item_id": "50", "score": 0.98765, "attributes": {}, "boost": 0.0, "marginal_relevance": 0.5},
            {"item_id": "1000", "score": -0.5, "attributes": {}, "boost": 0.25, "marginal_relevance": -0.125},
        ],
    }


def test_an_empty_answer_says_so() -> None:
    empty = Retrieval((), (), {}, "m1", "b1", unknown_values=2)
    assert tables.retrieval_to_table(empty).splitlines()[-2:] == [
        "! no item matches: see --where, whose values are case-sensitive, --text and --exclude",
        "! the model does not know 2 of the values of --feature: a typo, or new?",
    ]


def test_a_partial_answer_says_so() -> None:
    partial = replace(RETRIEVAL, coverage=0.75)
    assert tables.retrieval_to_table(partial).splitlines()[-1] == (
        "! only 75.00% of the catalogue was searched, as shards did not answer: try again, and see the metric "
        "two_tower_shards of the ANN service"
    )
    assert json.loads(tables.retrieval_to_json(partial))["coverage"] == 0.75
    assert "catalogue" not in tables.retrieval_to_table(RETRIEVAL)
    assert "coverage" not in json.loads(tables.retrieval_to_json(RETRIEVAL))


def test_at_most_three_unknown_values_are_named() -> None:
    retrieval = Retrieval(("50",), (1.0,), {}, "m1", "b1", unknown_values=4)
    unknown = ["history=a", "history=b\n", "sex=X", "sex=Y"]
    assert tables.retrieval_to_table(retrieval, unknown, ["7"]).splitlines()[-2:] == [
        "! the model does not know 4 of the values of --feature (history=a, history=b , sex=X, …): a typo, or new?",
        "! the catalogue has no item of these ids of --exclude: 7",
    ]


def test_unknown_values_may_be_stored_ones() -> None:
    retrieval = Retrieval(("50",), (1.0,), {}, "m1", "b1", unknown_values=1, stored_features="used")
    said = "! the model does not know 1 of the values of --feature and of what is stored of the user"
    assert tables.retrieval_to_table(retrieval).splitlines()[-1] == f"{said}: a typo, or new?"
    named = tables.retrieval_to_table(retrieval, ["sex=X"]).splitlines()[-1]
    assert named == f"{said} (sex=X): a typo, or new?"


def test_json_of_a_retrieval() -> None:
    assert json.loads(tables.retrieval_to_json(RETRIEVAL)) == {
        "model_version": "m1",
        "bundle_version": "b1",
        "items": [
            {"item_id": "50", "score": 0.98765, "attributes": {"title": "Star\tWars", "genres": ["Action", "Sci-Fi"]}},
            {"item_id": "1000", "score": -0.5, "attributes": {"title": None, "genres": []}},
        ],
    }


def test_a_title_cannot_command_the_terminal() -> None:
    title = "\x1b[2J\x9b1mred\x7f \u202eder\u2066 caf\u00e9 :x:"
    retrieval = Retrieval(("5\x070",), (1.0,), {"ti\x1btle": (title,)}, "m\x1b1", "b\n1")
    assert tables.retrieval_to_table(retrieval).splitlines() == [
        "rank  item      score   ti\\u001btle",
        "1     5\\u00070  1.0000  \\u001b[2J\\u009b1mred\\u007f \\u202eder\\u2066 caf\u00e9 :x:",
        "",
        "model m\\u001b1, bundle b 1",
    ]


def test_json_keeps_its_meaning_when_it_is_escaped() -> None:
    title = "\x9b1m\u202e\x7f\x1b caf\u00e9"
    text = escape(tables.to_json({"title": title}))
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert json.loads(text) == {"title": title}


def test_replicas() -> None:
    ages_s = [5, 65, 7_300, 200_000]
    replicas = [Replica("ann", f"a:{age_s}", opened_at_ms=1_000_000_000 - age_s * 1000) for age_s in ages_s]
    lines = tables.replicas_to_table(replicas, [], 1_000_000_000).splitlines()
    assert [line.split()[-1] for line in lines[1:5]] == ["5s", "1m", "2h", "2d"]
    # 1,000,000 s after the epoch are 11 days, 13 hours, 46 minutes and 40 seconds.
    assert lines[1].split()[-2] == "1970-01-12T13:46:35Z"
    assert lines[-1] == "ok: all replicas answer and agree"

    refusing = Replica("ann", "a:1", "", "b3", "b2", "m2", ("b2", "b1"), ("m2", "m1"), "b4", (Problem("b3", "g", "m"),))
    silent = Replica("query_tower", "q:1", "q:1 is unavailable")
    assert tables.replicas_to_table([silent, refusing], ["q:1 is unavailable"], 0).splitlines() == [
        "service      address  reachable  store  live  model  open   loading  problems  opened  age",
        "query_tower  q:1      no         -      -     -      -      -        -         -       -",
        "ann          a:1      yes        b3     b2    m2     b2,b1  b4       1         -       -",
        "",
        "! q:1 is unavailable",
    ]


def test_a_query_tower_with_an_earlier_bundle_of_the_model_is_explained() -> None:
    ann = Replica("ann", "a:1", "", "b2", "b2", "m1", ("b2", "b1"), ("m1", "m1"))
    tower = Replica("query_tower", "q:1", "", "b2", "b1", "m1", ("b1",), ("m1",))
    assert tables.replicas_to_table([tower, ann], [], 0).splitlines()[-2:] == [
        "A query tower answers from an earlier bundle of the same model: the tower is the same.",
        "ok: all replicas answer and agree",
    ]


def test_a_narrow_terminal_has_a_table_for_each_replica() -> None:
    replicas = [
        Replica(service, f"{service}:1", "", "b1", "b1", "m1", ("b1",), ("m1",)) for service in ("ann", "query_tower")
    ]
    wide = tables.replicas_to_table(replicas, [], 0)
    assert tables.replicas_to_table(replicas, [], 0, width=max(map(len, wide.splitlines()))) == wide
    narrow = tables.replicas_to_table(replicas, [], 0, width=80).splitlines()
    assert max(map(len, narrow)) < 40
    assert narrow[:3] == ["service    ann", "address    ann:1", "reachable  yes"]
    assert narrow[11:14] == ["", "service    query_tower", "address    query_tower:1"]
    assert narrow[-1] == "ok: all replicas answer and agree"
