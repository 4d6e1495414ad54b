"""BM25 scores worked out by hand, and damaged files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.index.errors import LexicalMissing
from retrieval.index.lexical import files
from retrieval.index.lexical.bm25 import Bm25

TEXTS = ["red cable", "red red mouse", "", "Black mice"]


def test_scores_are_those_worked_out_by_hand() -> None:
    # Lengths 2, 3, 0, 2: the mean is 7/4. idf = ln(1 + (4 - n + 0.5) / (n + 0.5)) with n = 2 for red: ln 2 = 0.693147.
    # tf / (tf + k1 (1 - b + b length / mean)), k1 1.5, b 0.75: row 0: 1 / (1 + 1.5 (0.25 + 0.75 * 2 / 1.75)) =
    # 1 / 2.660714 = 0.375839; row 1: 2 / (2 + 1.5 (0.25 + 0.75 * 3 / 1.75)) = 2 / 4.303571 = 0.464730.
    # For cable n = 1: ln(1 + 3.5 / 1.5) = 1.203973, times 0.375839.
    index = Bm25.of(TEXTS)
    np.testing.assert_allclose(index.scores("Reds"), [0.260512, 0.322126, 0, 0], atol=1e-5)
    np.testing.assert_allclose(index.scores("red cable")[0], 0.260512 + 0.452500, atol=1e-5)
    assert index.rank("red cable", 10) == [0, 1]
    assert index.rank("unknown", 10) == []


def test_a_repeated_word_counts_each_time() -> None:
    index = Bm25.of(TEXTS)
    np.testing.assert_allclose(index.scores("red cable red"), 2 * index.scores("red") + index.scores("cable"))
    np.testing.assert_allclose(index.scores("red " * 500), 500 * index.scores("red"), rtol=1e-6)


@pytest.mark.parametrize("name", ["words.npz", "starts.npy", "rows.npy", "scores.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_an_empty_or_truncated_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    files.write(tmp_path, ["title"], TEXTS, ["a", "b", "c", "d"])
    (tmp_path / "lexical" / name).write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        files.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("item_count", float("inf")),
        ("attributes", "title"),
        ("canaries", [{"text": 5, "items": [], "scores": []}]),
        ("canaries", [{"text": "red", "items": None, "scores": []}]),
        ("canaries", [{"text": "red", "items": ["a"], "scores": [1.0, 2.0]}]),
        ("canaries", [{"text": "red", "items": ["a"], "scores": ["1"]}]),
    ],
)
def test_a_description_of_another_form_is_damaged(tmp_path: Path, key: str, value: object) -> None:
    files.write(tmp_path, ["title"], TEXTS, ["a", "b", "c", "d"])
    path = tmp_path / "lexical/index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match="is damaged"):
        files.read(tmp_path)


def test_an_index_survives_the_disk_without_pickle(tmp_path: Path) -> None:
    files.write(tmp_path, ["title"], TEXTS, ["a", "b", "c", "d"])
    lexical = files.read(tmp_path)
    assert (lexical.attributes, lexical.index.count) == (("title",), 4)
    np.testing.assert_array_equal(lexical.index.scores("red mouse"), Bm25.of(TEXTS).scores("red mouse"))
    assert files.find_fault(lexical, ["a", "b", "c", "d"]) == ""
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        f"lexical/{name}" for name in ("index.json", "words.npz", "starts.npy", "rows.npy", "scores.npy")
    }
    for name in ("starts.npy", "rows.npy", "scores.npy"):
        assert np.load(tmp_path / "lexical" / name, allow_pickle=False).dtype.kind in "if"


def test_hits_of_other_items_are_a_fault(tmp_path: Path) -> None:
    files.write(tmp_path, ["title"], TEXTS, ["a", "b", "c", "d"])
    assert "expected ['a'" in files.find_fault(files.read(tmp_path), ["b", "a", "c", "d"])


@pytest.mark.parametrize("texts", [[""], ["", "!?"]])
def test_items_without_words_are_never_hits(tmp_path: Path, texts: list[str]) -> None:
    files.write(tmp_path, ["title"], texts, [str(row) for row in range(len(texts))])
    lexical = files.read(tmp_path)
    assert lexical.index.rank("anything", 5) == []
    assert files.find_fault(lexical, ["0", "1"]) == ""


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rows.npy", np.array([0, 1, 0, 1, 3, 9], np.int32)),
        ("rows.npy", np.array([0, 1, 0, 1, 3, -1], np.int32)),
        ("rows.npy", np.array([0, 1, 0], np.int32)),
        ("scores.npy", np.array([0.1, 0.1, np.nan, 0.1, 0.1, 0.1], np.float32)),
        ("starts.npy", np.array([0, 2], np.int64)),
        ("starts.npy", np.array([0, 3, 2, 4, 5, 6], np.int64)),
        ("starts.npy", np.zeros((2, 2), np.int64)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path, name: str, array: np.ndarray) -> None:
    Bm25.of(TEXTS).write(tmp_path)
    # red in rows 0 and 1, cable, mouse in row 1 and, since "mice" does not end in s, mice and black in row 3.
    assert np.load(tmp_path / "starts.npy").tolist()[-1] == 6
    np.save(tmp_path / name, array)
    with pytest.raises(ValueError, match=r"are not an index of 4 texts|are of kinds"):
        Bm25.read(tmp_path, 4)


def test_another_method_is_refused(tmp_path: Path) -> None:
    files.write(tmp_path, ["title"], TEXTS, ["a", "b", "c", "d"])
    path = tmp_path / "lexical/index.json"
    path.write_text(path.read_text().replace('"k1": 1.5', '"k1": 1.2'))
    with pytest.raises(ValueError, match=r"'k1': 1\.2.*this program searches.*'k1': 1\.5"):
        files.read(tmp_path)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path, ["title"], TEXTS, ["a", "b", "c", "d"])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert files.read(tmp_path).index.rank("red cable", 10) == [0, 1]  # searching needs no bm25s
    with pytest.raises(LexicalMissing, match=r"two-tower-retrieval\[lexical\]"):
        Bm25.of(TEXTS)


def test_a_part_has_the_scores_of_the_whole() -> None:
    index = Bm25.of(TEXTS)
    first, second = index.cut(0, 2), index.cut(2, 4)
    for text in ("red", "mouse cable", "black mice", "unknown"):
        whole = index.scores(text)
        np.testing.assert_array_equal(np.concatenate([first.scores(text), second.scores(text)]), whole)
    assert sorted(second.words) == ["black", "mice"]
    # Built of these texts alone, "red" would be in all of them, and so be worth less.
    assert first.scores("red")[0] > Bm25.of(TEXTS[:2]).scores("red")[0]
