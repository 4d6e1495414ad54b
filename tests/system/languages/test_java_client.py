"""The client in Java of `examples/java`, made by the recipe of docs/operating.md: answers across swaps and restarts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from tests.system.languages import clients

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("mvn", "java", "javac"))), reason="there is no Maven or no JDK on this machine"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by the commands of the docs. Maven keeps in the home folder what it downloads."""
    return clients.build("java", tmp_path_factory.mktemp("java") / "project") / "target" / "retrieve.jar"


def test_no_answer_fails_or_is_mixed_across_swaps_and_rolling_restarts(
    program: Path, store: FolderStore, tmp_path: Path
) -> None:
    calls = int(os.environ.get("JAVA_CALLS", clients.CALLS))
    clients.check_across_swaps(["java", "-jar", str(program)], store, tmp_path, calls)
