"""Clients in other languages: built by the recipes of docs/operating.md, and asked across swaps and restarts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.harness import ROOT
from tests.worlds import unit_vectors, wait_for, write_bundle

CALLS = 4000  # calls of a short run; the full one has 20,000


@dataclass(frozen=True, eq=False)
class Expected:
    """What a bundle holds.

    Attributes:
        seed: Seed of its query tower.
        vectors: [item_count, dim] float32, vectors of its items.
    """

    seed: int
    vectors: np.ndarray


_UNREACHABLE = re.compile(r"(Could not transfer artifact|Unknown host|dial tcp|no such host|i/o timeout)[^\n]{0,200}")
"""What Maven and Go say where their registry cannot be reached."""


def build(language: str, folder: Path) -> Path:
    """Builds the client of `examples/<language>` in a copy, by the commands of the docs, and returns its folder."""
    example = Path("examples") / language
    built = shutil.ignore_patterns("target", "bin", "retrieve")
    shutil.copytree(ROOT / example, folder / example, ignore=built)
    shutil.copytree(ROOT / "protos", folder / "protos")
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = page.split("\n## A client in another language\n")[1].split("\n## ")[0]
    recipes = re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (recipe,) = (recipe for recipe in recipes if str(example) in recipe)
    commands = recipe.replace("\\\n", " ").replace("$ ", "").replace(".venv/bin/python", sys.executable)
    done = subprocess.run(["sh", "-ec", commands], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    said = done.stdout + done.stderr
    if done.returncode and (unreachable := _UNREACHABLE.search(said)):
        pytest.skip(f"a package of {example} cannot be fetched here: {unreachable.group()}")
    assert done.returncode == 0, said
    return folder / example


def wait_for_answers(path: Path, bundle_version: str) -> None:
    """Waits until the end of a file of answers names a bundle."""

    def end() -> str:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4000))
            return file.read().decode()

    wait_for(lambda: bundle_version in end(), f"answers of {bundle_version}", 60)


def check_across_swaps(program: Sequence[str], store: FolderStore, folder: Path, calls: int) -> None:
    """Checks that no answer fails or is mixed while models swap and replicas restart one after another.

    Args:
        program: command of the client, without flags.
        store: empty store.
        folder: folder for logs and answers.
        calls: least number of answers; from 20,000 on, there are more swaps and restarts.
    """
    swaps, restarts = (7, 3) if calls >= 20_000 else (3, 1)
    expected = {write_bundle(store).bundle_version: Expected(seed=1, vectors=unit_vectors(300, 1))}
    with Pair(
        store.root, folder / "logs", replicas=2, flags={"poll-interval-s": "0.05", "drain-delay-s": "0.5"}
    ) as pair:
        command = [*program, "-calls", "0", "-callers", "8"]
        for flag, replicas in (("-query-tower", pair.query_towers), ("-ann", pair.anns)):
            command += [flag, ",".join(replica.address for replica in replicas)]
        answers, errors = folder / "answers", folder / "errors"
        with (
            answers.open("w") as stdout,
            errors.open("w") as stderr,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr) as child,
        ):
            wait_for_answers(answers, *expected)
            for number in range(2, 2 + swaps):
                seed = 1 + number % 2
                manifest = write_bundle(store, seed=seed, catalogue_seed=number, promote=False)
                expected[manifest.bundle_version] = Expected(seed, unit_vectors(300, number))
                store.promote(manifest.bundle_version)
                wait_for_answers(answers, manifest.bundle_version)
                if number < 2 + restarts:
                    for replica in pair.replicas:
                        replica.stop()
                        replica.start()
                        replica.wait_until_serving()
            wait_for(lambda: answers.read_text().count("\n") >= calls, f"{calls} answers", 300)
            assert child.poll() is None, errors.read_text()[:2000]  # it asked all the time
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(60) == 0, errors.read_text()[:2000]
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(found) >= calls
    assert {each["Bundle"] for each in found} == set(expected)
    embeddings = {expected[each["Bundle"]].seed: np.array(each["Vector"], np.float32) for each in found}
    assert embeddings[1] @ embeddings[2] < 0.9  # the query tower of each seed has an embedding of its own
    mixed = [each for each in found if is_mixed(each, expected[each["Bundle"]], embeddings)]
    assert mixed == []


def is_mixed(answer: dict[str, Any], expected: Expected, embeddings: dict[int, np.ndarray]) -> bool:
    """Returns whether an answer is not that of one model.

    Args:
        answer: models that embedded and searched, embedding, and item ids.
        expected: what the bundle that answered holds.
        embeddings: [dim] float32, embedding of the query by the tower of each seed.
    """
    vector = np.array(answer["Vector"], np.float32)
    nearest = [f"i{row}" for row in np.argsort(-(expected.vectors @ vector))[:5]]
    return (
        answer["Embedded"] != answer["Searched"]
        or not np.allclose(vector, embeddings[expected.seed], atol=1e-5)
        or answer["Items"] != nearest
    )
