"""Folders of runs: one training each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT
from trainer.errors import RunError
from trainer.training.run_folder import claimed


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_trainings_that_begin_in_the_same_second_get_folders_of_their_own() -> None:
    with claimed(None, "shop", resume=False) as first, claimed(None, "shop", resume=False) as second:
        assert (first, second) == (Path("runs/shop"), Path("runs/shop-2"))
        for folder in (first, second):
            (folder / "run.json").touch()
    assert sorted(path.name for path in Path("runs").iterdir()) == ["shop", "shop-2"]


def test_a_new_folder_is_removed_if_nothing_was_written_to_it() -> None:
    with pytest.raises(KeyError), claimed(None, "shop", resume=False):
        raise KeyError
    assert not list(Path("runs").iterdir())


def test_a_folder_that_a_training_writes_to_is_refused_until_it_has_ended() -> None:
    named = Path("mine")
    hold = "import sys; from pathlib import Path; from trainer.training.run_folder import claimed\n"
    hold += "with claimed(Path(sys.argv[1]), '', resume=False): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(named.absolute())]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RunError, match="another training writes to mine; name another folder with --run"):
            claimed(named, "", resume=False).__enter__()
        other.kill()
    with claimed(named, "", resume=False) as folder:
        assert folder == named
    assert named.exists()


@pytest.mark.parametrize(
    ("file", "reason"), [("run.json", "a finished run"), ("checkpoint.npz", "a stopped training: go on with --resume")]
)
def test_an_earlier_training_is_not_overwritten(file: str, reason: str) -> None:
    earlier = Path("earlier")
    earlier.mkdir()
    (earlier / file).touch()
    with pytest.raises(RunError, match=f"holds {reason}"):
        claimed(earlier, "", resume=False).__enter__()


def test_a_stopped_training_goes_on_in_its_folder() -> None:
    stopped = Path("stopped")
    stopped.mkdir()
    (stopped / "checkpoint.npz").touch()
    with claimed(stopped, "", resume=True) as folder:
        assert folder == stopped


def test_a_folder_that_cannot_be_made_is_named() -> None:
    Path("file").touch()
    with pytest.raises(RunError, match="cannot make the folder file/run"):
        claimed(Path("file/run"), "", resume=False).__enter__()
