"""Graded queries: metrics against values worked out by hand, and error messages for invalid files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.index.lexical.bm25 import Bm25
from trainer.errors import DataError
from trainer.evaluation import graded_queries
from trainer.evaluation.search_evaluation import summarise

ROWS = "query,docid,rating\nmouse,a,3\nmouse,b,1\nmouse,c,0\nbag,d,2\nbag,a,0\nnothing,a,0\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_metrics_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    queries = graded_queries.read(write(tmp_path / "qrels.csv", ROWS), None)
    assert queries.queries == ("mouse", "bag")
    found = graded_queries.measure(queries, [["b", "x", "a"], ["x", "y"]])
    # mouse: gains 2^1 - 1 = 1 at rank 1 and 2^3 - 1 = 7 at rank 3, whose discount is log2(4) = 2: 1 + 3.5 = 4.5. The
    # ideal is 7 + 1 / log2(3) = 7.63093, so 0.58970. Both relevant items are there, the first at rank 1; two of ten
    # places hold a graded item. Without x, the 7 is at rank 2: (1 + 7 / log2(3)) / 7.63093 = 0.70981.
    np.testing.assert_allclose(found[0], [0.58970, 1.0, 1.0, 0.2, 0.70981], atol=1e-5)
    np.testing.assert_allclose(found[1], [0.0, 0.0, 0.0, 0.0, 0.0])
    # From rating 2 on, b is no relevant item: half of nothing is missing, and the first relevant one is at rank 3.
    strict = graded_queries.read(tmp_path / "qrels.csv", None, relevant_from=2)
    np.testing.assert_allclose(
        graded_queries.measure(strict, [["b", "x", "a"], ["d"]])[:, 1:3], [[1.0, 1 / 3], [1.0, 1.0]]
    )


def test_only_the_first_ten_and_the_first_hundred_count(tmp_path: Path) -> None:
    queries = graded_queries.read(write(tmp_path / "qrels.csv", "query,docid,rating\nq,a,1\n"), None)
    late = [f"x{at}" for at in range(10)]
    assert graded_queries.measure(queries, [[*late, "a"]])[0].tolist() == [0.0, 1.0, 1 / 11, 0.0, 1.0]
    assert graded_queries.measure(queries, [[f"x{at}" for at in range(100)] + ["a"]])[0].tolist() == [0.0] * 5


def test_a_file_of_queries_chooses_among_the_graded_ones(tmp_path: Path) -> None:
    qrels = write(tmp_path / "qrels.csv", ROWS)
    assert graded_queries.read(qrels, write(tmp_path / "queries.csv", "query\nbag\nbag\n")).queries == ("bag",)
    with pytest.raises(DataError, match=r"queries\.csv: 1 queries, for instance 'hat', have no grade in"):
        graded_queries.read(qrels, write(tmp_path / "queries.csv", "query\nbag\nhat\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,docid\nq,a\n", "no column rating"),
        ("query,docid,rating\nq,a,good\n", "line 2: rating 'good' is not an integer"),
        ("query,docid,rating\nq,a,31\n", "line 2: rating '31' is not an integer from 0 to 30"),
        (f"query,docid,rating\nq,a,{'9' * 5000}\n", "line 2: rating '9"),
        ("query,docid,rating\nq,a,1\nq,a,2\n", "line 3: 'a' is graded twice for 'q'"),
        ("query,docid,rating\n,a,1\n", "line 2: an empty cell"),
        ("query,docid,rating\nq,a,0\n", "no query has an item rated 1 or higher"),
        ("", "no column query, docid, rating, or no rows"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        graded_queries.read(write(tmp_path / "qrels.csv", text), None)


def test_a_rating_of_0_is_never_relevant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--relevant-from 0: a rating of 0 is irrelevant"):
        graded_queries.read(write(tmp_path / "qrels.csv", ROWS), None, relevant_from=0)


def test_fusion_sums_reciprocal_ranks() -> None:
    # With 60: a has 1/61 + 1/62, c 1/63 + 1/61, b 1/62, d 1/63.
    assert graded_queries.fuse(["a", "b", "c"], ["c", "a", "d"]) == ["a", "c", "b", "d"]
    assert graded_queries.fuse([], ["x"]) == ["x"]


def test_bm25_finds_rare_words_first_and_plurals_too() -> None:
    index = Bm25.of(["black cable", "red cable", "wireless mouse", "Émile cable"])
    assert index.rank("mice mouses", 10) == [2]
    assert index.rank("red cables", 10)[0] == 1
    assert sorted(index.rank("cable", 10)) == [0, 1, 3]
    assert index.rank("emile", 10) == [3]
    assert index.rank("unknown ☂", 10) == []
    assert len(index.rank("cable", 2)) == 2


def test_differences_are_paired_and_of_the_right_sign(tmp_path: Path) -> None:
    rows = "".join(f"q{at},d{at},3\n" for at in range(30))
    queries = graded_queries.read(write(tmp_path / "qrels.csv", f"query,docid,rating\n{rows}"), None)
    right, wrong = [[f"d{at}"] for at in range(30)], [["x"] for _ in range(30)]
    found = summarise(queries, {"good": right, "fused": right, "bad": wrong})
    assert found.differences["good"]["bad"]["ndcg@10"] == (1.0, 1.0, 1.0)
    assert found.differences["good"]["fused"]["ndcg@10"] == (0.0, 0.0, 0.0)
    assert found.metrics["bad"]["ndcg@10"] == 0.0
