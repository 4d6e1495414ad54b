"""The text encoders of a run as they are served: exported, checked, and used to encode queries for the bundle."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.text import TextEncoder, TextEncoders
from retrieval.bundle.layout import TEXT_ENCODERS
from retrieval.index.recall import exact_top_k
from trainer.data.dataset import Dataset
from trainer.features.schemas import Schemas
from trainer.model.embeddings import embed_queries

_COMPARED = 500
"""Largest number of texts of each tower on which the export of an encoder is checked."""
_TOP = 10


class ExportedTextEncoders:
    """The exported text encoders of a run, kept in a temporary folder until they are written to a bundle.

    A run without text features has none; then nothing is exported or written.

    Attributes:
        schemas: Schemas of the run with the exported encoders, which encode queries as the services will.
    """

    def __init__(self, schemas: Schemas, columns: Mapping[str, Sequence[Any]], dataset: Dataset) -> None:
        """Exports the encoders and checks them.

        Args:
            schemas: Schemas of the run, with the trained encoders.
            columns: Raw queries by feature name; their texts are used to compare the encoders.
            dataset: Data set whose item texts are used to compare the encoders.

        Raises:
            ExportError: An encoder cannot be exported, or its vectors differ from the trained encoder's.
        """
        self._trained, self.schemas = schemas, schemas
        self._folder: Path | None = None
        self._measured: dict[str, dict[str, float]] = {}
        encoders: Mapping[str, Any] = schemas.text_encoders.by_name
        if not encoders:
            return
        from trainer.publishing.text_export import export_text_encoder

        folder = self._folder = Path(tempfile.mkdtemp(prefix="two-tower-text-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        item_columns = {feature.name: dataset.item_column(feature.name) for feature in schemas.item.texts}
        exported: list[TextEncoder] = []
        for name, encoder in encoders.items():
            texts = _texts_of(name, schemas.query, columns)[:_COMPARED]
            texts += _texts_of(name, schemas.item, item_columns)[:_COMPARED]
            deployed, self._measured[name] = export_text_encoder(encoder, folder, texts)
            exported.append(deployed)
        self.schemas = dataclasses.replace(schemas, text_encoders=TextEncoders(tuple(exported)))

    def write(self, folder: Path) -> None:
        """Copies the exported encoders into the folder of a bundle."""
        if self._folder is not None:
            shutil.copytree(self._folder / TEXT_ENCODERS, folder / TEXT_ENCODERS)

    def measure(
        self, query_tower: keras.Model, columns: Mapping[str, Sequence[Any]], vectors: np.ndarray
    ) -> dict[str, Any]:
        """Measures how much the export changes the results, for ``evaluation.json``.

        Returns the cosines of exported and trained text vectors, and the agreement of the exact top 10.

        Without text features it returns an empty dictionary.

        Args:
            query_tower: Query tower of the run.
            columns: Raw queries by feature name.
            vectors: [item_count, dimension] float32, unit length.
        """
        if self._folder is None:
            return {}
        count = len(next(iter(columns.values())))
        exported, trained = (
            exact_top_k(embed_queries(query_tower, schemas, dict(columns), count), vectors, _TOP)
            for schemas in (self.schemas, self._trained)
        )
        shared = [len(np.intersect1d(a, b)) / _TOP for a, b in zip(exported, trained, strict=True)]
        encoders = self._trained.text_encoders.by_name
        figures = {
            name: {**measured, "precision": encoders[name].spec.precision} for name, measured in self._measured.items()
        }
        return {"text_encoders": figures, "text_top_10_agreement": float(np.mean(shared))}


def _texts_of(encoder: str, schema: FeatureSchema, columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the distinct texts in the columns of the features that use an encoder."""
    names = [feature.name for feature in schema.texts if feature.encoder == encoder]
    return list(dict.fromkeys(text for name in names for text in columns.get(name, ()) if text))
