"""`make audit` refuses a package whose licence is not on the list."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

is_allowed = runpy.run_path(str(Path(__file__).parents[2] / "deploy" / "check_licences.py"))["is_allowed"]


@pytest.mark.parametrize(
    "licence",
    ["MIT", "Apache License 2.0", "3-Clause BSD License", "GPL-3.0 OR MIT", "MPL-2.0 AND (MIT OR ISC)"],
)
def test_allows(licence: str) -> None:
    assert is_allowed(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "GPL-3.0",
        "LGPL-2.1",
        "AGPL-3.0 AND MIT",
        "MIT AND GPL-2.0",
        "GPL-2.0 AND (Zlib OR MIT)",
        "Proprietary",
        "MITRE Commercial",
    ],
)
def test_refuses(licence: str) -> None:
    assert not is_allowed(licence)
