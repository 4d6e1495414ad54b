"""Reading, splitting, summarising and batching a table with less memory than the whole table takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.large_tables import write_events

EVENTS, BUDGET_MIB = 2_000_000, 190
"""Read in blocks, 2 million events were seen to take 91 MiB, as one block 334: the limit is far from both."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    write_events(folder / "events.parquet", EVENTS, 20_000, 2_000)
    return folder


def program(folder: Path, block: int, in_memory_bytes: int) -> subprocess.CompletedProcess[str]:
    arguments = [str(folder), str(BUDGET_MIB), str(block), str(in_memory_bytes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-m", "tests.trainer.data.limited_memory", *arguments],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA and /proc are those of Linux")
@pytest.mark.parametrize("where", ["on disk", "in memory"])
def test_a_table_that_does_not_fit_into_memory_is_read_from_disk(folder: Path, where: str) -> None:
    block, in_memory_bytes = (2**17, 2**20) if where == "on disk" else (2**40, 2**40)
    done = program(folder, block, in_memory_bytes)
    if where == "on disk":
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[:2] == ["streaming", str(EVENTS)]
    else:  # the limit holds: read as one block, the same table exceeds it
        assert done.returncode != 0
        assert "emory" in done.stderr
