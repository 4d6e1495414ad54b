"""Adding items to golden bundles: the trainer reads their recipe and loads their item tower."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of tensorflow, about itself
    import tensorflow  # noqa: F401

from retrieval.bundle.catalogue.parts import read_vectors
from tests.golden.golden import Golden
from tests.trainer.world import KERAS_AND_NUMPY, command

pytestmark = [
    pytest.mark.filterwarnings(KERAS_AND_NUMPY),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras_hub"),
]

UPDATED = ("plain", "text", "events", "age_decay_popularity", "shards")
"""Bundles that this trainer adds items to; where it no longer does, a test has to show what it says instead."""


@pytest.mark.parametrize("golden", UPDATED, indirect=True)
def test_a_new_item_gets_the_recorded_vector(golden: Golden, tmp_path: Path) -> None:
    golden.store.promote(golden.version)
    table = tmp_path / "new.csv"
    table.write_text(golden.answers["new_item"]["table"])
    arguments = ("--store", golden.store.root, "--items", table, "--promote", "--json")
    added = json.loads(command("add-items", *arguments))["bundle_version"]
    assert golden.store.live_version() == added
    before, after = (
        read_vectors(golden.store.path(version), golden.store.manifest(version)) for version in (golden.version, added)
    )
    np.testing.assert_array_equal(after[:-1], before)
    np.testing.assert_allclose(after[-1], golden.answers["new_item"]["vector"], atol=1e-5)
