"""docs/console.md: its options, its pictures, and the limits that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from console.command import main
from console.services import users
from console.web import guard

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")
OTHERS = {"--metrics-port", "--force", "--no-baselines"}
"""Options of other programs that the page names."""


def test_every_option_is_described_and_every_described_option_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    existing = set(re.findall(r"(--[a-z][a-z-]+)", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) - OTHERS == existing


def test_every_picture_is_there_and_small() -> None:
    named = re.findall(r"!\[[^]]{20,}\]\(images/([a-z]+\.png)\)", PAGE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs" / "images").glob("*.png"))
    assert len(named) == PAGE.count("![") <= 4
    for name in named:
        assert (ROOT / "docs" / "images" / name).stat().st_size < 150_000, name


def test_limits_are_those_of_the_code() -> None:
    assert f"at most {guard.BODY_MAX_BYTES >> 10} KiB, {guard.BODY_TIMEOUT_S:g} s for a body" in PAGE
    assert f"at most {users.USERS_MAX:,} users" in PAGE
