"""Sizes of files and folders: what does not fit is split by idea."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "ann_service",
    "benchmarks",
    "clients/two_tower_client",
    "console",
    "examples",
    "query_tower_service",
    "retrieval",
    "testbed",
    "tests",
    "trainer",
)
FILES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_folder_has_more_than_15_files() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in FILES if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > 15} == {}
