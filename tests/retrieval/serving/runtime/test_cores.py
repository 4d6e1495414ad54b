"""Number of cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrieval.serving.runtime.cores import available_cores, library_threads


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # one and a half: two processes can use it, one cannot
        ("50000 100000\n", 1),
        ("max 100000\n", 4),
        ("6400000 100000\n", 4),
        ("nonsense", 4),
        (None, 4),
    ],
)
def test_cpu_quota_of_the_container_limits_the_available_cores(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(tmp_path / "cpu.max") == cores


def test_threads_of_numeric_libraries_are_divided_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.serving.runtime.cores.available_cores", lambda: 8)
    assert [library_threads(workers) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
