"""Both wheels, installed into an empty folder: what they install, and that the installed commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import ROOT
from tests.worlds import wait_for, write_bundle

PACKAGES = {
    "retrieval": ROOT,
    "query_tower_service": ROOT,
    "ann_service": ROOT,
    "trainer": ROOT,
    "two_tower_client": ROOT / "clients",
    "two_tower": ROOT / "clients",
}
"""Top-level names that the wheels may install, and the folder of each in the source tree."""
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")


@dataclass(frozen=True)
class Installed:
    """A folder into which both wheels are installed, and another one to run commands in."""

    folder: Path
    elsewhere: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def run(self, command: str, *arguments: str) -> str:
        """Returns the output of an installed command, which has to succeed."""
        return run([str(self.folder / "bin" / command), *arguments], cwd=self.elsewhere, environment=self.environment)


def run(command: list[str], *, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheels")
    # A copy, since a build leaves its own folders beside the sources, and takes what an older build left there.
    source = folder / "source"
    shutil.copytree(ROOT / "clients", source / "clients", ignore=NOT_SOURCE)
    for name, parent in PACKAGES.items():
        if parent == ROOT:
            shutil.copytree(ROOT / name, source / name, ignore=NOT_SOURCE)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    for project in (source / "clients", source):
        run(
            [
                sys.executable,
                "-m",
                "build",
                "--wheel",
                "--no-isolation",
                "--outdir",
                str(folder / "dist"),
                str(project),
            ],
            cwd=folder,
        )
    wheels = [str(wheel) for wheel in (folder / "dist").iterdir()]
    assert len(wheels) == 2
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--target", str(folder / "site"), *wheels], cwd=folder)
    (folder / "elsewhere").mkdir()
    return Installed(folder / "site", folder / "elsewhere")


def test_no_other_top_level_name_is_installed(installed: Installed) -> None:
    names = {path.name for path in installed.folder.iterdir() if path.suffix != ".dist-info"}
    assert names == {*PACKAGES, "bin"}


def test_every_file_of_a_package_is_installed(installed: Installed) -> None:
    for name, parent in PACKAGES.items():
        # pip compiles what it installs, so byte code may be in either folder.
        source, target = (
            {path.relative_to(root / name) for path in (root / name).rglob("*") if path.is_file()}
            for root in (parent, installed.folder)
        )
        assert {p for p in target if p.suffix != ".pyc"} == {p for p in source if p.suffix != ".pyc"}


@pytest.mark.parametrize("command", ["two-tower-trainer", "two-tower-query-tower", "two-tower-ann", "two-tower"])
def test_an_installed_command_shows_its_help_under_its_own_name(installed: Installed, command: str) -> None:
    shown = installed.run(command, "--help")
    assert re.match(rf"usage: {command} ", shown, re.IGNORECASE)


def test_the_installed_trainer_shows_the_version_of_the_wheel(installed: Installed) -> None:
    version = (ROOT / "clients" / "VERSION").read_text().strip()
    assert installed.run("two-tower-trainer", "--version").strip() == version


def test_the_installed_trainer_lists_the_bundles_of_a_store(installed: Installed, store: FolderStore) -> None:
    version = write_bundle(store).bundle_version
    assert version in installed.run("two-tower-trainer", "bundles", "--store", str(store.root), "--json")


def test_the_installed_services_with_two_workers_answer_the_installed_client(
    installed: Installed, store: FolderStore, tmp_path: Path
) -> None:
    version = write_bundle(store).bundle_version
    with (
        running(installed, "two-tower-query-tower", store, tmp_path) as query_tower,
        running(installed, "two-tower-ann", store, tmp_path, "--workers", "2") as ann,
    ):
        addresses = ("--query-tower", query_tower, "--ann", ann)
        command = [str(installed.folder / "bin" / "two-tower"), "status", *addresses, "--json"]

        def ask() -> subprocess.CompletedProcess[str] | None:
            # Exit code 1 as long as a bundle is loading.
            done = subprocess.run(
                command, cwd=installed.elsewhere, env=installed.environment, capture_output=True, text=True, check=False
            )
            return done if done.returncode == 0 else None

        shown = wait_for(ask, f"{' '.join(command)} returns 0", timeout_s=60.0).stdout
    replicas = json.loads(shown)["replicas"]
    assert [(replica["service"], replica["live_bundle"]) for replica in replicas] == [
        ("query_tower", version),
        ("ann", version),
    ]


@contextmanager
def running(installed: Installed, command: str, store: FolderStore, folder: Path, *flags: str) -> Iterator[str]:
    """Runs an installed service on a free port; yields its address."""
    port_file, log = folder / f"{command}.port", folder / f"{command}.log"
    program = [str(installed.folder / "bin" / command), "--store", str(store.root), "--port", "0"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*program, "--port-file", str(port_file), "--drain-delay-s", "0", *flags],
            cwd=installed.elsewhere,
            env=installed.environment,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: port_file.exists() or child.poll() is not None, f"{command} listens", timeout_s=60.0)
        assert child.poll() is None, log.read_text()
        yield f"127.0.0.1:{port_file.read_text().strip()}"
        child.terminate()
        assert child.wait(timeout=30) == 0, log.read_text()
    finally:
        child.kill()
        child.wait()
