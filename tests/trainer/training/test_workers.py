"""Training over two processes: the losses and metrics of one, a worker that is killed, and workers that differ."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.world import KERAS_AND_NUMPY, command, write_shop
from trainer.training.checkpoints import CHECKPOINT

pytestmark = [pytest.mark.filterwarnings(KERAS_AND_NUMPY), pytest.mark.timeout(1800)]

EPOCHS = 12
# Without dropout, whose draws differ between workers. With items = "tower" no table of the model has a row twice in a
# batch: Adam squares such rows one by one in one process, and summed where several devices have them.
CHANGES = (
    ("max_values = 10, dropout = 0.2", 'max_values = 10, items = "tower"'),
    ('"age", kind = "numeric", dropout = 0.2', '"age", kind = "numeric"'),
    ('    { name = "gender", kind = "categorical", embedding_dim = 2 },\n', ""),
    ('"item_id", kind = "categorical", dropout = 0.05', '"item_id", kind = "categorical"'),
    ('    { name = "genres", kind = "multi_categorical", max_values = 2, embedding_dim = 4 },\n', ""),
    ("[training]\n", "[training]\nrefit = false\n"),
    ("hidden_units = [16]", "hidden_units = [16]\ndropout = 0.0"),
    ("epochs = 2", f"epochs = {EPOCHS}"),
)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for each in sockets:
        each.close()
    return ports


class TwoWorkers:
    """The processes of a training by two workers, and what they have printed when they have ended."""

    def __init__(self, folder: Path, *arguments: Sequence[Any]) -> None:
        """Starts a worker with each of the two lists of arguments, in `folder`."""
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.processes = []
        for index, given in enumerate(arguments):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer", "train", *map(str, given)],
                env={**os.environ, "TF_CONFIG": json.dumps(config), "PYTHONPATH": str(Path(__file__).parents[3])},
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.processes.append(process)

    def end(self, timeout_s: float = 600) -> tuple[list[int], list[str], list[str]]:
        """Returns exit codes, stdout and stderr of both workers, when both have ended."""
        printed = [process.communicate(timeout=timeout_s) for process in self.processes]
        return [process.returncode for process in self.processes], *(list(each) for each in zip(*printed, strict=True))

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_shop(tmp_path_factory.mktemp("shop") / "data")
    text = path.read_text()
    for old, new in CHANGES:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def alone(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `train` prints as JSON in one process, and the measurements of its epochs."""
    run = tmp_path_factory.mktemp("alone") / "run"
    printed = command("train", shop, "--run", run, "--no-baselines", "--json")
    return {**json.loads(printed), "history": json.loads((run / "history.json").read_text())}


@pytest.fixture(scope="module")
def stopped(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A training by two workers, of which worker 1 is killed after the first epoch: what is left of worker 0."""
    folder = tmp_path_factory.mktemp("workers")
    arguments = ["train", shop, "--run", folder / "run", "--store", folder / "store", "--no-baselines", "--json"][1:]
    workers = TwoWorkers(folder, arguments, arguments)
    chief, other = workers.processes
    try:
        while not (folder / "run" / CHECKPOINT).exists():
            assert chief.poll() is None, chief.communicate()[1]
            time.sleep(0.01)
        other.send_signal(signal.SIGKILL)
        began = time.monotonic()
        codes, _, errors = workers.end()
        yield {"folder": folder, "arguments": arguments, "codes": codes, "error": errors[0],
               "seconds": time.monotonic() - began}  # fmt: skip
    finally:
        workers.kill()


@pytest.fixture(scope="module")
def resumed(stopped: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same training, continued by both workers to its end."""
    arguments = [*stopped["arguments"], "--resume"]
    workers = TwoWorkers(stopped["folder"], arguments, arguments)
    try:
        codes, printed, errors = workers.end()
        yield {"codes": codes, "printed": printed, "errors": errors}
    finally:
        workers.kill()


def test_a_killed_worker_ends_the_others_with_its_name(stopped: dict[str, Any]) -> None:
    assert stopped["codes"] == [1, -signal.SIGKILL]
    assert "error: worker 1 (127.0.0.1:" in stopped["error"]
    assert "has ended or does not answer" in stopped["error"]
    assert "Traceback" not in stopped["error"]
    assert stopped["seconds"] < 120
    assert not (stopped["folder"] / "run" / "run.json").exists()


def test_two_workers_have_the_losses_and_metrics_of_one(
    stopped: dict[str, Any], resumed: dict[str, Any], alone: dict[str, Any]
) -> None:
    assert resumed["codes"] == [0, 0], resumed["errors"]
    history = json.loads((stopped["folder"] / "run" / "history.json").read_text())
    assert len(history) == EPOCHS
    # The same sums in another order, over some of the epochs: float32 has 1.2e-7 of each term.
    np.testing.assert_allclose(
        *([epoch["loss"] for epoch in epochs] for epochs in (history, alone["history"])), rtol=1e-4
    )
    result = json.loads(resumed["printed"][0])
    expected, found = alone["metrics"]["two-tower"], result["metrics"]["two-tower"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.02), name  # one of 60 users may have two items swapped
    assert (stopped["folder"] / "store" / "bundles" / result["bundle_version"] / "manifest.json").exists()


def test_the_chief_alone_writes_and_prints(stopped: dict[str, Any], resumed: dict[str, Any]) -> None:
    assert sorted(path.name for path in stopped["folder"].iterdir()) == ["run", "store"]
    assert resumed["printed"][1] == ""
    (line,) = resumed["errors"][1].splitlines()
    assert "computes for worker 0" in line


def test_workers_with_other_tables_or_seeds_are_refused(shop: Path, tmp_path: Path) -> None:
    rows = (shop.parent / "purchases.csv").read_text().splitlines(keepends=True)
    other = tmp_path / "purchases.csv"
    other.write_text("".join(rows[:-1]))
    run = ["--run", tmp_path / "run"]
    changed = [shop, *run, "--seed", 3, "--data", tmp_path]
    for name in ("products.csv", "buyers.csv"):
        (tmp_path / name).write_bytes((shop.parent / name).read_bytes())
    workers = TwoWorkers(tmp_path, [shop, *run], changed)
    try:
        codes, _, errors = workers.end()
    finally:
        workers.kill()
    assert codes == [1, 1]
    for error in errors:
        assert "error: worker 1 (127.0.0.1:" in error
        assert "seed is 3, not 1" in error
        assert "digest of the interactions is " in error
        assert "digest of the items" not in error
        assert "Every worker has to run the same command" in error
