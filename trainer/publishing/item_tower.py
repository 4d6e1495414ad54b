"""The item tower of a bundle, asked for single rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer.errors import RunError
from trainer.model.saved_towers import load_tower

_BATCH = 4096


def embed_rows(path: Path, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns what the tower in a file makes of its inputs: [n, dimension] float32, unit length.

    Args:
        path: of ``item_tower.keras``, already verified.
        inputs: by feature, each [n, ...], as of `retrieval.bundle.features.schema.FeatureSchema.encode`.

    Raises:
        RunError: the file holds no tower that this trainer knows, or one that answers NaN.
    """
    try:
        tower = load_tower(path)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: no tower that this trainer can read: {error}; publish the bundle again") from error
    vectors = np.asarray(tower.predict(dict(inputs), batch_size=_BATCH, verbose=0), dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise RunError(f"{path}: the tower answers NaN or infinity; publish the bundle again")
    return vectors
