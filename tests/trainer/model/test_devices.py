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

pytestmark = [
    pytest.mark.filterwarnings(KERAS_AND_NUMPY),
    pytest.mark.timeout(900),  # ten trainings run before the first test, on a busy machine in minutes
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop") / "data").parent


CASES: dict[str, dict[str, Any]] = {
    "mixed": {"training": {"loss": "mixed_softmax", "negatives": 20}, "history": {"items": "tower"}},
    "hard negatives": {
        "training": {"loss": "sampled_softmax", "negatives": 20, "hard_negatives": 8},
        "history": {},
        "resumes": True,
    },
    "in batch, queue and streaming": {
        "training": {"queue": 30, "log_q": "streaming"},
        "history": {"encoder": "transformer"},
    },
}
# The optimizer and the precision of a training, and all state that a loss in the batch may have.
AS_TRAINED = {
    "training": {"precision": "mixed_bfloat16", "queue": 30, "log_q": "streaming"},
    "history": {},
    "optimizer": "adamw",
    "resumes": True,
}


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Results of the program `two_devices` by name of the case; one process, as it takes seconds to begin."""
    given = {name: {"optimizer": "sgd", "resumes": False, **case} for name, case in CASES.items()}
    cases = json.dumps({**given, "as trained": AS_TRAINED})
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.training.two_devices", folder, tmp_path_factory.mktemp("runs"), cases],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_two_devices_learn_what_one_does_of_the_same_batches(trained: dict[str, dict[str, Any]], case: str) -> None:
    found = trained[case]
    # The sums are the same, in another order: float32 has 1.2e-7 of each term. An epoch moves weights by 0.04.
    assert found["moved"] > 0.02
    assert found["apart"] < 2e-5
    np.testing.assert_allclose(*found["losses"], rtol=1e-5)
    assert found["types"] == ["ResourceVariable"]  # the towers that are left are those of one device


@pytest.mark.parametrize("case", ["hard negatives", "as trained"])
def test_two_devices_resume_bit_identical(trained: dict[str, dict[str, Any]], case: str) -> None:
    assert trained[case]["apart_when_resumed"] == 0.0


def test_two_devices_learn_with_the_optimizer_of_a_training(trained: dict[str, dict[str, Any]]) -> None:
    np.testing.assert_allclose(*trained["as trained"]["losses"], rtol=0.02)


def test_parts_of_a_batch_are_the_batch(folder: Path) -> None:
    of = recipe()
    dataset = load_dataset(of, folder)
    examples = Examples(of, dataset, learn_schemas(of, dataset, dataset.events), dataset.events, context=5, targets=5)
    whole = examples.batch(np.array([4, 9, 1, 7, 3]))
    parts = examples._device_parts(np.array([4, 9, 1, 7, 3]), None, 2, (0, 1))
    for name in ("user", "item", "log_q", "weight"):
        assert np.concatenate([part[name] for part in parts]).tolist() == whole[name].tolist()
    assert [len(part["items"]) for part in parts] == [3, 2]
    with pytest.raises(TrainingError, match=r"a batch of 1 sequences cannot be shared by 2 devices: raise"):
        examples._device_parts(np.array([4]), None, 2, (0,))
