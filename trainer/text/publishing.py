"""The text encoders of a bundle: exported once, and used for what the services are checked with."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bundle.features import FeatureSchema
from bundle.texts import TEXT_ENCODERS, Text, TextEncoder
from trainer.data import Dataset
from trainer.embeddings import embed_queries
from trainer.index import exact_top_k
from trainer.schema import Schemas

_COMPARED = 500
"""Texts of each encoder that its export is checked on, at most."""
_TOP = 10


class ExportedTexts:
    """Text encoders on their way into a bundle. Without text features it does nothing.

    Attributes:
        schemas: as the services will encode queries: by the exported encoders. Items keep the trained ones.
    """

    def __init__(self, schemas: Schemas, columns: Mapping[str, Sequence[Any]], dataset: Dataset) -> None:
        """Exports and checks them, into a temporary folder.

        Args:
            schemas: of the run.
            columns: raw queries, whose texts are compared.
            dataset: of the items, likewise.

        Raises:
            ExportError: an encoder answers differently once it is exported.
        """
        self._trained, self.schemas = schemas, schemas
        self._folder: Path | None = None
        self._measured: dict[str, dict[str, float]] = {}
        encoders = schemas.text_encoders
        if not encoders:
            return
        from trainer.text.export import LiteText, export_text_encoder

        folder = self._folder = Path(tempfile.mkdtemp(prefix="two-tower-text-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        exported: dict[str, TextEncoder] = {}
        for name, encoder in encoders.items():
            texts = _texts_of(name, schemas.query, columns)[:_COMPARED]
            texts += _texts_of(name, schemas.item, {f.name: dataset.item_column(f.name) for f in _of(schemas.item)})[
                :_COMPARED
            ]
            self._measured[name] = export_text_encoder(encoder, folder, texts)
            exported[name] = LiteText.open(folder, encoder.spec)
        query = schemas.query
        self.schemas = Schemas(FeatureSchema(query.features, query.vocabularies, exported), schemas.item)

    def write(self, folder: Path) -> None:
        """Copies them into the folder of a bundle."""
        if self._folder is not None:
            shutil.copytree(self._folder / TEXT_ENCODERS, folder / TEXT_ENCODERS)

    def measure(
        self, query_tower: keras.Model, columns: Mapping[str, Sequence[Any]], vectors: np.ndarray
    ) -> dict[str, Any]:
        """Returns, for ``evaluation.json``, what each export lost: cosines, and agreement of the exact top 10.

        Args:
            query_tower: of the run.
            columns: raw queries.
            vectors: [item_count, dimension] float32.
        """
        if self._folder is None:
            return {}
        count = len(next(iter(columns.values())))
        served, trained = (
            exact_top_k(embed_queries(query_tower, schemas, dict(columns), count), vectors, _TOP)
            for schemas in (self.schemas, self._trained)
        )
        shared = [len(np.intersect1d(a, b)) / _TOP for a, b in zip(served, trained, strict=True)]
        figures = {
            name: {**measured, "precision": self._trained.text_encoders[name].spec.precision}
            for name, measured in self._measured.items()
        }
        return {"text_encoders": figures, "text_top_10_agreement": float(np.mean(shared))}


def _of(schema: FeatureSchema) -> list[Text]:
    return [feature for feature in schema.features if isinstance(feature, Text)]


def _texts_of(encoder: str, schema: FeatureSchema, columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the distinct texts that an encoder meets."""
    names = [feature.name for feature in _of(schema) if feature.encoder == encoder]
    return list(dict.fromkeys(text for name in names for text in columns.get(name, ()) if text))
