"""Commands that other packages add to the command line."""

from importlib import metadata

import pytest

from two_tower_client.cli import added_commands
from two_tower_client.cli.main import main


def test_runs_the_command_of_another_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["console", "--help"])
    assert ended.value.code == 0
    assert "--password-file" in capsys.readouterr().out


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda: iter(()))
    assert main(["console", "--store", "store"]) == 1
    assert capsys.readouterr().err == (
        "two-tower: the command `console` is not installed: pip install 'two-tower-retrieval[console]'\n"
    )


def test_is_listed_with_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in added_commands.PACKAGES)
