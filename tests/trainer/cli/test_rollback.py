"""What `rollback` says of the bundles that it changes between."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from tests.trainer.world import command
from tests.worlds import write_bundle


def test_says_what_it_came_from_how_to_return_and_where_another_one_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(tmp_path / "store")
    first, second, third = (write_bundle(store, item_count=30).bundle_version for _ in range(3))

    def roll_back() -> list[str]:
        capsys.readouterr()
        command("rollback", "--store", store.root)
        return capsys.readouterr().err.splitlines()

    def undo(version: str) -> str:
        return f"in place of {version}: `python -m trainer promote {version} --store {store.root}` undoes this"

    assert roll_back() == [
        f"live: {second}",
        undo(third),
        f"another roll back goes further back, to {first}",
    ]
    assert roll_back() == [f"live: {first}", undo(second)]
    store.promote(second)
    store.promote(third)
    store.prune(1)  # the first is gone, so no roll back can go to it
    assert roll_back() == [f"live: {second}", undo(third)]
