"""The client in Go of `examples/go`, made by the recipe of docs/operating.md: answers across swaps and restarts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.store.store import BundleStore
from testbed.services import Pair
from tests.harness import ROOT
from tests.worlds import unit_vectors, wait_for, write_bundle

CALLS = int(os.environ.get("GO_CALLS", "4000"))
SWAPS, RESTARTS = (7, 3) if CALLS >= 20_000 else (3, 1)

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on this machine")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by the commands of the docs."""
    folder = tmp_path_factory.mktemp("go") / "project"
    shutil.copytree(ROOT / "examples" / "go", folder / "examples" / "go")
    shutil.copytree(ROOT / "protos", folder / "protos")
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = page.split("\n## A client in another language\n")[1].split("\n## ")[0]
    (recipe,) = re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    commands = recipe.replace("\\\n", " ").replace("$ ", "").replace(".venv/bin/python", sys.executable)
    done = subprocess.run(["sh", "-ec", commands], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "examples" / "go" / "retrieve"


def last_answers(path: Path) -> str:
    """Returns the end of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        return file.read().decode()


def test_no_answer_fails_or_is_mixed_across_swaps_and_rolling_restarts(
    program: Path, store: BundleStore, tmp_path: Path
) -> None:
    expected = {write_bundle(store).bundle_version: unit_vectors(300, 1)}
    with Pair(
        store.root, tmp_path / "logs", replicas=2, flags={"poll-interval-s": "0.05", "drain-delay-s": "0.5"}
    ) as pair:
        command = [str(program), "-calls", "0", "-callers", "8"]
        for flag, replicas in (("-query-tower", pair.query_towers), ("-ann", pair.anns)):
            command += [flag, ",".join(replica.address for replica in replicas)]
        answers, errors = tmp_path / "answers", tmp_path / "errors"
        with (
            answers.open("w") as stdout,
            errors.open("w") as stderr,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr) as child,
        ):
            for number in range(2, 2 + SWAPS):
                manifest = write_bundle(store, seed=1 + number % 2, catalogue_seed=number, promote=False)
                expected[manifest.bundle_version] = unit_vectors(300, number)
                store.promote(manifest.bundle_version)
                version = manifest.bundle_version
                wait_for(lambda version=version: version in last_answers(answers), f"answers of {version}")
                if number < 2 + RESTARTS:
                    for replica in pair.replicas:
                        replica.stop()
                        replica.start()
                        replica.wait_until_serving()
            wait_for(lambda: answers.read_text().count("\n") >= CALLS, f"{CALLS} answers", 300)
            assert child.poll() is None, errors.read_text()[:2000]  # it asked all the time
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(60) == 0, errors.read_text()[:2000]
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(found) >= CALLS
    assert {each["Bundle"] for each in found} == set(expected)
    for each in found:
        assert each["Embedded"] == each["Searched"]
        scores = expected[each["Bundle"]] @ np.array(each["Vector"], np.float32)
        assert [int(item[1:]) for item in each["Items"]] == np.argsort(-scores)[:5].tolist()
