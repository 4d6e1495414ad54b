"""Embeds items with the item tower of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bundle.features.schema import encode_inputs, read_schema
from retrieval.bundle.layout import ITEM_TOWER
from retrieval.bundle.manifest import Manifest
from retrieval.inference.text_encoder import open_text_encoders
from trainer.errors import RunError
from trainer.model.saved_towers import load_tower
from trainer.quiet_tensorflow import quiet_stderr

_BATCH = 4096


class ItemTower:
    """The item tower of a bundle in memory, with its schema and text encoders.

    Attributes:
        features: Names of the features that it reads.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Loads the tower.

        Args:
            folder: Folder of the bundle, whose files are verified.
            manifest: Manifest of the bundle.

        Raises:
            RunError: The file does not hold a tower that this trainer can read.
        """
        self._path = folder / ITEM_TOWER
        self._schema = read_schema(folder, manifest.item_feature_schema)
        self.features = tuple(feature.name for feature in self._schema.features)
        with quiet_stderr():
            self._text_encoders = open_text_encoders(folder, self._schema)
        try:
            self._tower = load_tower(self._path)
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path}: not a tower that this trainer can read: {error}; publish the bundle again"
            ) from error

    def embed(self, columns: Mapping[str, Sequence[Any]], count: int) -> np.ndarray:
        """Returns the embeddings of items: [count, dimension] float32, unit length.

        Args:
            columns: Raw values by name of the feature, each [count]; `features` has the names.
            count: Number of items.

        Raises:
            RunError: The tower returns NaN or infinity.
        """
        inputs = encode_inputs(self._schema, self._text_encoders, columns, count)
        vectors = np.asarray(self._tower.predict(dict(inputs), batch_size=_BATCH, verbose=0), dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise RunError(f"{self._path}: the tower returns NaN or infinity; publish the bundle again")
        return vectors
