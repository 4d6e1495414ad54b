"""The trainer's commands on a store in a bucket, each as on a machine of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.s3_server import S3Server
from tests.trainer.world import KERAS_AND_NUMPY, Shop, command

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)


def test_publish_promote_add_prune_and_roll_back(
    shop: Shop, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, *arguments: Any) -> Any:
        monkeypatch.setenv("TWO_TOWER_CACHE", str(tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"))
        return command(name, *arguments, "--store", s3.url)

    def listed() -> list[dict[str, Any]]:
        return json.loads(run("bundles", "--json"))

    first = json.loads(run("publish", shop.runs[0], "--json"))["bundle_version"]
    assert [row["state"] for row in listed()] == [""]
    run("promote", first)
    second = json.loads(run("publish", shop.runs[1], "--promote", "--force", "--json"))["bundle_version"]
    assert [(row["bundle"], row["state"].split(",")[0]) for row in listed()] == [(second, "live"), (first, "previous")]
    added = json.loads(run("add-items", "--remove-id", "p05", "--promote", "--json"))
    assert (added["base"], added["removed"]) == (second, 1)
    run("rollback")
    states = {row["bundle"]: row["state"].split(",")[0] for row in listed()}
    assert states == {added["bundle_version"]: "", second: "live", first: "previous"}
    assert added["bundle_version"] not in run("prune", "--keep", "1")
    run("promote", added["bundle_version"])
    run("prune", "--keep", "1")
    assert [row["bundle"] for row in listed()] == [added["bundle_version"], second]
    evaluated = json.loads(run("evaluate", shop.runs[1], "--bundle", second, "--json"))
    assert "two-tower, served" in evaluated["metrics"]
