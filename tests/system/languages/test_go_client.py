"""The client in Go of `examples/go`, made by the recipe of docs/operating.md: answers across swaps and restarts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from tests.system.languages import clients

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on this machine")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by the commands of the docs."""
    return clients.build("go", tmp_path_factory.mktemp("go") / "project") / "retrieve"


def test_no_answer_fails_or_is_mixed_across_swaps_and_rolling_restarts(
    program: Path, store: FolderStore, tmp_path: Path
) -> None:
    clients.check_across_swaps([str(program)], store, tmp_path, int(os.environ.get("GO_CALLS", clients.CALLS)))
