"""The manifest on disk: writing, reading, and refusal of a damaged one with the name of the gate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from retrieval.bundle.errors import BundleRefused, InvalidVersion
from retrieval.bundle.manifest import FileEntry, IndexSpec, Manifest, check_version
from retrieval.bundle.shard import Shard

VERSION = "20261124T031645Z-3f9a1c"
MANIFEST = Manifest(
    bundle_version=VERSION,
    model_version="20261123T000000Z-000001",
    parent_version=None,
    dimension=64,
    item_count=1682,
    index=IndexSpec("annoy", "angular", {"trees": 50, "seed": 1}, 5000, 0.97),
    feature_schema={"features": []},
    attributes={"title": "string"},
    files={"index.ann": FileEntry(12, "0" * 64), "query_tower/saved_model.pb": FileEntry(0, "f" * 64)},
    metrics={"ndcg@10": 0.08},
    seed=7,
    git_commit="abc",
    recipe={"epochs": 3},
    forced_gates=("metrics",),
)


def test_manifest_survives_the_disk() -> None:
    assert Manifest.from_json(MANIFEST.to_json(), VERSION) == MANIFEST


SHARDS = (Shard("shard-00", 841, 30, 0.9), Shard("shard-01", 841, 0, 0.95))


def test_manifest_of_shards_survives_the_disk_and_is_of_a_format_that_older_programs_refuse() -> None:
    sharded = replace(MANIFEST, shards=SHARDS, format_version=3)
    assert Manifest.from_json(sharded.to_json(), VERSION) == sharded
    assert json.loads(sharded.to_json())["format_version"] == 3
    # That of an ordinary bundle is as before, so that older programs read it.
    assert "shards" not in json.loads(MANIFEST.to_json())


@pytest.mark.parametrize(
    ("shards", "fault"),
    [
        ([], "format version 3, expected 1"),
        ([{}], "Shard"),
        ({"shard-00": 1}, "expected a list"),
        ([{"name": "shard-00", "item_count": 1682, "event_count": 0, "recall_at_100": 1.0}], "1 shards"),
        ([{"name": f"shard-0{n}", "item_count": 840, "event_count": 0, "recall_at_100": 1.0} for n in (0, 1)], "1680"),
        ([{"name": f"shard-0{n}", "item_count": 841, "event_count": 0, "recall_at_100": 1.0} for n in (1, 0)], "order"),
        ([{"name": "../x", "item_count": 1, "event_count": 0, "recall_at_100": 1.0}], "name such as"),
        ([{"name": "shard-00", "item_count": "1", "event_count": 0, "recall_at_100": 1.0}], "item_count"),
        ([{"name": "shard-00", "item_count": 1, "event_count": -1, "recall_at_100": 1.0}], "event_count"),
        ([{"name": "shard-00", "item_count": 1, "event_count": 0, "recall_at_100": 7}], "recall_at_100"),
    ],
)
def test_shards_that_do_not_make_up_the_catalogue_are_refused(shards: Any, fault: str) -> None:
    with pytest.raises(BundleRefused, match=fault) as caught:
        Manifest.from_json(edited(shards=shards, format_version=3), VERSION)
    assert caught.value.gate == "manifest"


def test_shards_in_a_manifest_of_the_old_format_are_refused() -> None:
    text = replace(MANIFEST, shards=SHARDS, format_version=3).to_json()
    with pytest.raises(BundleRefused, match="format version 1, expected 3"):
        Manifest.from_json(json.dumps({**json.loads(text), "format_version": 1}), VERSION)


def edited(**fields: Any) -> str:
    return json.dumps({**json.loads(MANIFEST.to_json()), **fields})


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("", "manifest"),
        ("[]", "manifest"),
        ("null", "manifest"),
        ("[" * 100_000, "manifest"),
        ("{}", "manifest"),
        (edited(format_version=4), "format_version"),
        (edited(interests=3), "manifest"),
        (edited(format_version=0), "format_version"),
        (edited(format_version="1"), "format_version"),
        (edited(surprise=1), "manifest"),
        (edited(gates={"recall": {"figure": 0.1, "threshold": 0.2, "passed": False, "message": None}}), "manifest"),
        (edited(gates={"recall": {"figure": 10**400, "threshold": 0.2, "passed": False, "message": ""}}), "manifest"),
        *((edited(metrics={"ndcg@10": value}), "manifest") for value in ("<b>", None, True, [], math.nan, 10**400)),
        (edited(git_commit="\ud800"), "manifest"),
        (edited(attributes=["title"]), "manifest"),
        (edited(recipe={"a": json.loads("[" * 900 + "]" * 900)}), "manifest"),
        (edited(dimension="64"), "manifest"),
        (edited(dimension=0), "manifest"),
        (edited(item_count=True), "manifest"),
        (edited(model_version="../../etc"), "manifest"),
        (edited(files={"../../etc/passwd": {"size_bytes": 1, "sha256": "0" * 64}}), "manifest"),
        *(
            (edited(files={path: {"size_bytes": 1, "sha256": "0" * 64}}), "manifest")
            for path in (
                "a\0b",
                "a\nb",
                "./a",
                "a//b",
                "a/",
                "a" * 300,
                "a/" * 3000 + "a",
            )  # no disk or bucket has them
        ),
        *(
            (edited(files={"a": {"size_bytes": size, "sha256": "0" * 64}}), "manifest")
            for size in (-1, 2**63, 7.5, math.nan, math.inf, True, "7")
        ),
        (edited(files={"/etc/passwd": {"size_bytes": 1, "sha256": "0" * 64}}), "manifest"),
        (edited(files={"a": {"size_bytes": -1, "sha256": "0" * 64}}), "manifest"),
        (edited(files={"a": {"size_bytes": 1, "sha256": "zz"}}), "manifest"),
        (edited(index={"kind": "annoy"}), "manifest"),
        (edited(index=None), "manifest"),
        (edited(bundle_version="20261124T031645Z-000000"), "manifest"),
    ],
)
def test_damaged_manifest_is_refused(text: str, gate: str) -> None:
    with pytest.raises(BundleRefused) as caught:
        Manifest.from_json(text, VERSION)
    assert (caught.value.gate, caught.value.version) == (gate, VERSION)


def test_a_bundle_with_several_embeddings_for_each_query_is_refused_with_what_to_do() -> None:
    with pytest.raises(BundleRefused, match="several embeddings for each query") as caught:
        Manifest.from_json(edited(format_version=2, interests=3), VERSION)
    assert caught.value.gate == "format_version"
    assert "train and publish again with this version, or serve the bundle with the release" in caught.value.message


@pytest.mark.parametrize(
    "version", ["", ".", "..", "../x", "20261124T031645Z-3f9a1", f"{VERSION}\n", f"{VERSION}/..", "LIVE"]
)
def test_string_that_is_not_a_version_is_refused(version: str) -> None:
    with pytest.raises(InvalidVersion):
        check_version(version)


def test_recall_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recall_at_100 is 1\.5"):
        replace(MANIFEST.index, recall_at_100=1.5)
    with pytest.raises(ValueError, match="search_budget is 0"):
        replace(MANIFEST.index, search_budget=0)
