"""What several workers cannot train is refused before the first step."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf

from tests.trainer.world import command, dataset, recipe
from trainer.data import splits
from trainer.errors import RunError
from trainer.training.cluster import Cluster
from trainer.training.worker_checks import check_workers
from trainer.training.workers import Workers


@pytest.mark.parametrize("keys", [{"mode": "finetune"}, {"mode": "distilled", "learning_rate": 0.01}])
def test_text_encoders_that_are_trained_are_refused(keys: dict[str, object]) -> None:
    text = {"name": "title", "kind": "text", "checkpoint": "a/checkpoint", **keys}
    of = recipe(item_tower={"features": [text]})
    purchases = dataset([("u", item, time) for time, item in enumerate(("a", "b", "c"))])
    workers = Workers(tf.distribute.get_strategy(), Cluster(("127.0.0.1:1", "127.0.0.1:2"), 0))
    with pytest.raises(RunError, match="feature title trains its text encoder, which several workers cannot"):
        check_workers(of, splits.Data(purchases, splits.split(purchases, of.split)), workers)


@pytest.mark.parametrize("name", ["tune", "quality"])
def test_commands_of_one_process_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(RunError, match=f"^TF_CONFIG lists 2 workers, and `{name}` runs in one process: unset it"):
        command(name, "movielens_100k")
