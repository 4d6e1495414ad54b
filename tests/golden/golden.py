"""Golden bundles for tests, with the answers that were recorded when the bundles were made."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.store.folder_store import FolderStore

FOLDER = Path(__file__).parent
ANSWERS: dict[str, dict[str, Any]] = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
"""Recorded answers by name of the golden bundle; README.md lists what they hold."""


@dataclass(frozen=True)
class Golden:
    """A copy of a golden bundle, the only bundle of its store.

    Attributes:
        store: Store of the bundle, which a test may change.
        version: Version of the bundle.
        answers: Answers that were recorded when the bundle was made, by name: one entry of ``answers.json``.
    """

    store: FolderStore
    version: str
    answers: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the bundle in the store."""
        return self.store.root / "bundles" / self.version


def copy_golden(name: str, root: Path) -> Golden:
    """Returns a copy of a golden bundle, the only one of a new store in the folder `root`; nothing is live in it."""
    answers = ANSWERS[name]
    version = answers["bundle_version"]
    shutil.copytree(FOLDER / answers["folder"], root / "bundles" / version)
    return Golden(FolderStore(root), version, answers)
