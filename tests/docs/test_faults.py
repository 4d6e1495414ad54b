"""The table of docs/faults.md: at least thirty faults, each with a proof that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def rows() -> list[list[str]]:
    """Fault, promise, figure and proof of each fault."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    assert table[0] == ["fault", "promise", "figure", "proof"]
    return [row for row in table[2:] if not row[0].startswith("**")]


def test_there_are_thirty_faults_and_each_cell_is_filled() -> None:
    assert len(rows()) >= 30
    assert all(len(row) == 4 and all(row) for row in rows())


def test_every_proof_exists() -> None:
    for fault, _, _, proof in rows():
        name = proof.strip("`")
        if name.startswith("make "):
            assert name.removeprefix("make ") in TARGETS, fault
            continue
        path, _, function = name.partition("::")
        assert f"\ndef {function}(" in (ROOT / path).read_text(encoding="utf-8"), fault
