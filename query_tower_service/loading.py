"""Opening the query side of a bundle: the gates, and one tower for all bundles of a model."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from bundle.errors import BundleRefused
from bundle.features import Columns, FeatureSchema, text_encoder_specs
from bundle.manifest import GOLDEN_QUERIES, QUERY_TOWER, VOCABULARIES, Manifest
from bundle.store import BundleStore
from bundle.texts import TextEncoderSpec
from query_tower_service.config import QueryTowerConfig
from query_tower_service.encoder import QueryTower
from query_tower_service.text import ServedText, TextCache, TextMetrics
from query_tower_service.validation import RequestReader
from serving.verification import (
    available_bytes,
    check_embeddings,
    check_memory,
    read_contents,
    read_golden_queries,
)

_IDENTITY = (QUERY_TOWER, VOCABULARIES)
"""Beside the text encoders, what tells one model from another."""


@dataclass(frozen=True, eq=False)
class Model:
    """A tower and where it comes from.

    Attributes:
        version: of the model.
        bundle_version: the bundle that the tower was read from.
        tower: answers.
        reader: of requests to it.
        identity: hashes of the files that make the model, and its features: equal for all bundles of one model.
    """

    version: str
    bundle_version: str
    tower: QueryTower
    reader: RequestReader
    identity: tuple[str, ...]

    def embed(self, columns: Columns, row_count: int) -> np.ndarray:
        """Returns the embeddings of `row_count` rows of raw values, as of `bundle.features.FeatureSchema.encode`."""
        return self.tower.embed(self.tower.schema.encode(columns, row_count), row_count)


class ModelLoader:
    """Opens models. Calls must not overlap; `serving.live.OpenBundles` sees to that."""

    def __init__(self, store: BundleStore, config: QueryTowerConfig, metrics: TextMetrics) -> None:
        """Takes where the bundles are, the settings, and where texts are counted."""
        self._store = store
        self._config = config
        self._metrics = metrics
        # Weak: a model goes away with the last bundle and request that hold it.
        self._open: WeakValueDictionary[str, Model] = WeakValueDictionary()

    def open(self, version: str, beside: Collection[str]) -> Model:
        """Returns the model of a bundle, verified and warm: the one that is open already, where it is the same.

        Args:
            version: of the bundle.
            beside: bundles that are open meanwhile.

        Raises:
            BundleError: a gate refused it; see `serving.verification`. Gate ``model``: another bundle of the same
                model has another tower.
        """
        manifest = self._store.manifest(version)
        files = files_of(manifest)
        self._store.verify(version, files)
        identity = (
            *(manifest.files[name].sha256 for name in files if name != GOLDEN_QUERIES),
            json.dumps(manifest.feature_schema),
        )
        model = self._open.get(manifest.model_version)
        if model is None:
            copies = 1 if beside or self._config.unload_first else 2
            check_memory(manifest, files, copies, available_bytes())
            tower = self._read_tower(manifest)
            model = Model(manifest.model_version, version, tower, RequestReader(tower.schema), identity)
        elif model.identity != identity:
            raise BundleRefused(
                version,
                "model",
                f"its tower differs from that of bundle {model.bundle_version}, though both name model "
                f"{model.version}; publish it under a model version of its own",
            )
        golden_queries = read_golden_queries(self._store, manifest)
        count = len(golden_queries)
        found = read_contents(version, GOLDEN_QUERIES, lambda: model.embed(golden_queries.columns, count))
        check_embeddings(version, found, golden_queries.embeddings)
        _check_unit_length(version, found)
        self._open[manifest.model_version] = model
        return model

    def _read_tower(self, manifest: Manifest) -> QueryTower:
        version = manifest.bundle_version
        folder = self._store.path(version)
        schema = read_contents(version, VOCABULARIES, lambda: self._read_schema(manifest, folder))
        return read_contents(
            version,
            QUERY_TOWER,
            lambda: QueryTower(folder / QUERY_TOWER, schema, manifest.dimension, self._config.thread_count),
        )

    def _read_schema(self, manifest: Manifest, folder: Path) -> FeatureSchema:
        def open_encoder(spec: TextEncoderSpec) -> ServedText:
            cache = TextCache(self._config.text_cache_size, self._metrics)
            return ServedText(folder, spec, self._config.thread_count, cache, self._metrics)

        vocabularies = json.loads((folder / VOCABULARIES).read_text(encoding="utf-8"))
        return FeatureSchema.from_json(manifest.feature_schema, vocabularies, open_encoder)


def files_of(manifest: Manifest) -> tuple[str, ...]:
    """Returns what this service reads of a bundle.

    Raises:
        BundleRefused: gate ``contents`` where the manifest's text encoders make no sense.
    """
    specs = read_contents(
        manifest.bundle_version, "feature_schema", lambda: text_encoder_specs(manifest.feature_schema)
    )
    texts = [path for spec in specs for path in (spec.tokenizer_path, spec.encoder_path)]
    return (*_IDENTITY, *texts, GOLDEN_QUERIES)


def _check_unit_length(version: str, embeddings: np.ndarray) -> None:
    worst = float(np.max(np.abs(np.linalg.norm(embeddings, axis=-1) - 1.0)))
    if not worst <= 1e-3:
        raise BundleRefused(version, "canaries", f"an embedding is {worst:.2e} off unit length, allowed are 1e-03")
