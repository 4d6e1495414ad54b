"""Reading recorded queries."""

from pathlib import Path

import pytest

from two_tower_client.cli.recording import RecordedQuery, read_queries
from two_tower_client.errors import InvalidRequest

LINES = b'{"features": {"age": [24.0]}}\n\n{"features": {"age": 25, "history": ["50", "181"]}}\n{"features": {}}\n'


def fault(path: Path) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_queries(str(path), 10)
    assert caught.value.violations[0][0] == "--queries"
    return caught.value.violations[0][1].replace(str(path), "FILE")


def test_reads_features_and_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(LINES)
    assert read_queries(str(path), 10) == [
        RecordedQuery(1, {"age": [24.0]}),
        RecordedQuery(3, {"age": 25, "history": ["50", "181"]}),
        RecordedQuery(4, {}),
    ]
    assert [query.line for query in read_queries(str(path), 2)] == [3, 4]


def test_skips_an_incomplete_last_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(LINES + b'{"features": {"ag')
    assert [query.line for query in read_queries(str(path), 10)] == [1, 3, 4]
    path.write_bytes(b'{"features": {"age": 1}}')
    assert [query.line for query in read_queries(str(path), 10)] == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"age=24\n", "FILE, line 5: is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"[1]\n", 'FILE, line 5: is not {"features": {name: values}}'),
        (b'{"age": 24}\n', 'FILE, line 5: is not {"features": {name: values}}'),
        (b'{"features": [24]}\n', 'FILE, line 5: is not {"features": {name: values}}'),
        (
            b'{"features": {"age": NaN}}\n',
            "FILE, line 5: features[age] has to be finite, got nan; None means missing",
        ),
        (
            b'{"features": {"age": [1, "x"]}}\n',
            "FILE, line 5: features[age] a list has to be of one type, got int and str",
        ),
    ],
)
def test_names_the_line_that_is_not_a_query(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(LINES + line + b'{"features": {}}\n')
    assert fault(path) == message


def test_names_the_line_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(b'{"features": {"a": "\xff"}}\n')
    assert fault(path).startswith("FILE, line 1: is not JSON ('utf-8' codec can't decode byte 0xff")


def test_names_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    assert fault(path) == "cannot read 'FILE': No such file or directory"
    path.write_bytes(b"\n")
    assert fault(path) == ("FILE contains no query; run the query tower service with --query-log FILE to record some")
    assert fault(tmp_path) == "cannot read 'FILE': Is a directory"
