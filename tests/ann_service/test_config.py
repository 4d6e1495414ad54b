"""The settings of the ANN service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ann_service.config import AnnConfig
from query_tower_service.config import QueryTowerConfig


@pytest.mark.parametrize(("cores", "threads", "expected"), [(1, "auto", 16), (2, "auto", 2), (1, 3, 3), (2, 5, 5)])
def test_a_process_on_one_core_has_more_threads_by_default(
    cores: int, threads: Any, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ann_service.config.own_cores", lambda: cores)
    assert AnnConfig(store=tmp_path, threads=threads).thread_count == expected
    assert QueryTowerConfig(store=tmp_path, threads=threads).thread_count == (2 if threads == "auto" else threads)
