"""Embeds items with the item tower of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer.errors import RunError
from trainer.model.saved_towers import load_tower

_BATCH = 4096


def embed_rows(path: Path, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the embeddings of items: [n, dimension] float32, unit length.

    Args:
        path: ``item_tower.keras`` of the bundle, already verified.
        inputs: Inputs of the tower by feature name, each [n, ...], as
            `retrieval.bundle.features.schema.encode_inputs` returns them.

    Raises:
        RunError: The file does not hold a tower that this trainer can read, or the tower returns NaN or infinity.
    """
    try:
        tower = load_tower(path)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not a tower that this trainer can read: {error}; publish the bundle again") from error
    vectors = np.asarray(tower.predict(dict(inputs), batch_size=_BATCH, verbose=0), dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise RunError(f"{path}: the tower returns NaN or infinity; publish the bundle again")
    return vectors
