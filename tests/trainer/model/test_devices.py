"""Training on two devices: the same result as on one device, and resuming after a stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, recipe, write_shop
from trainer.data.dataset import load_dataset
from trainer.errors import TrainingError
from trainer.features.schemas import learn_schemas
from trainer.training.examples import Examples

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


def fitted(folder: Path, run: Path, optimizer: str, change: dict[str, Any], history: dict[str, Any]) -> dict[str, Any]:
    """Runs the program `two_devices`, and returns the results that it prints as JSON."""
    given = [str(folder), str(run), json.dumps(change), json.dumps(history), optimizer]
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.training.two_devices", *given],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("change", "history"),
    [
        ({}, {"encoder": "transformer"}),
        ({"loss": "sampled_softmax", "negatives": 20, "hard_negatives": 8}, {}),
        ({"loss": "mixed_softmax", "negatives": 20}, {"items": "tower"}),
        ({"queue": 30, "log_q": "streaming"}, {}),
    ],
    ids=("in batch", "hard negatives", "mixed", "queue and streaming"),
)
def test_two_devices_learn_what_one_does_of_the_same_batches(
    folder: Path, tmp_path: Path, change: dict[str, Any], history: dict[str, Any]
) -> None:
    found = fitted(folder, tmp_path, "plain", change, history)
    # The sums are the same, in another order: float32 has 1.2e-7 of each term. An epoch moves weights by 0.04.
    assert found["moved"] > 0.02
    assert found["apart"] < 2e-5
    np.testing.assert_allclose(*found["losses"], rtol=1e-5)
    assert found["apart_when_resumed"] == 0.0
    assert found["types"] == ["ResourceVariable"]  # the towers that are left are those of one device


def test_two_devices_resume_with_the_optimizer_of_a_training(folder: Path, tmp_path: Path) -> None:
    found = fitted(folder, tmp_path, "adamw", {"precision": "mixed_bfloat16"}, {})
    assert found["apart_when_resumed"] == 0.0
    np.testing.assert_allclose(*found["losses"], rtol=0.02)


def test_parts_of_a_batch_are_the_batch(folder: Path) -> None:
    of = recipe()
    dataset = load_dataset(of, folder)
    examples = Examples(of, dataset, learn_schemas(of, dataset, dataset.events), dataset.events, context=5, targets=5)
    whole = examples.batch(np.array([4, 9, 1, 7, 3]))
    parts = examples._device_parts(np.array([4, 9, 1, 7, 3]), None, 2)
    for name in ("user", "item", "log_q", "weight"):
        assert np.concatenate([part[name] for part in parts]).tolist() == whole[name].tolist()
    assert [len(part["items"]) for part in parts] == [3, 2]
    with pytest.raises(TrainingError, match=r"a batch of 1 sequences cannot be shared by 2 devices: raise"):
        examples._device_parts(np.array([4]), None, 2)
