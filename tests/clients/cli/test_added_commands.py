"""Commands that other packages add to the command line."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from two_tower_client.cli import added_commands
from two_tower_client.cli.main import main


def test_runs_the_command_of_another_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["console", "--help"])
    assert ended.value.code == 0
    assert "--password-file" in capsys.readouterr().out


@pytest.mark.parametrize("modules", [[], ["left_out.command"], ["left_out.command", "left_out"]])
def test_says_what_to_install(
    modules: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, modules)
    assert main(["console", "--store", "store"]) == 1
    assert capsys.readouterr().err == (
        "two-tower: the command `console` is not installed: pip install 'two-tower-retrieval[console]'\n"
    )


def test_does_not_hide_what_the_module_of_a_command_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left.py").write_text("import left_out\n")
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, ["left"])
    with pytest.raises(ModuleNotFoundError, match="left_out"):
        main(["console"])


def install(monkeypatch: pytest.MonkeyPatch, modules: list[str]) -> None:
    """Makes one distribution of each module, with the command `console`, and none other."""
    points = [metadata.EntryPoint("console", f"{module}:main", "two_tower.commands") for module in modules]
    found = [SimpleNamespace(entry_points=metadata.EntryPoints([point])) for point in points]
    monkeypatch.setattr(metadata, "distributions", lambda: iter(found))


def test_is_listed_with_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in added_commands.PACKAGES)
