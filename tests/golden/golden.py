"""The golden bundles, and what they answered when they were made."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.store.store import BundleStore

FOLDER = Path(__file__).parent
ANSWERS: dict[str, dict[str, Any]] = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
"""By name of the bundle; see README.md."""


@dataclass(frozen=True)
class Golden:
    """A golden bundle, alone in a store of its own.

    Attributes:
        store: the store, which a test may change.
        version: version of the bundle.
        answers: what is recorded of it.
    """

    store: BundleStore
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
    return Golden(BundleStore(root), version, answers)
