"""Opens the query tower of a bundle: the load gates, and one tower for all bundles of a model."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from query_tower_service.config import QueryTowerConfig
from query_tower_service.merging import Merger
from query_tower_service.requests import QueryParser
from query_tower_service.text_metrics import TextMetrics
from retrieval.bundle.errors import BundleRefused
from retrieval.bundle.features.schema import read_schema, text_encoder_specs
from retrieval.bundle.layout import GOLDEN_QUERIES, QUERY_TOWER, TEXT_ENCODERS, VOCABULARIES
from retrieval.bundle.manifest import Manifest
from retrieval.inference.query_tower import QueryTower
from retrieval.inference.text_encoder import open_text_encoders
from retrieval.serving.bundles.file_memory import measure_files
from retrieval.serving.bundles.verification import (
    available_bytes,
    check_embeddings,
    check_memory,
    read_contents,
    read_golden_queries,
)
from retrieval.store.store import BundleStore

_IDENTITY = (QUERY_TOWER, VOCABULARIES)
"""Files that, with those of the text encoders, identify a model."""


@dataclass(frozen=True, eq=False)
class Model:
    """An open model.

    Attributes:
        version: Model version.
        bundle_version: Version of the bundle that the tower was read from.
        tower: Query tower, which computes the embeddings.
        parser: Parser of queries into the tower's feature columns.
        merger: Adds stored features to parsed queries.
        identity: Hashes of the model's files, and its feature schema; equal for all bundles of one model.
    """

    version: str
    bundle_version: str
    tower: QueryTower
    parser: QueryParser
    merger: Merger
    identity: tuple[str, ...]


class ModelLoader:
    """Opens the models of bundles.

    Calls of `open` must not overlap; `retrieval.serving.bundles.open_bundles.OpenBundles` sees to that.
    """

    def __init__(self, store: BundleStore, config: QueryTowerConfig, metrics: TextMetrics) -> None:
        """Takes the store of the bundles, the settings, and the metrics of text features."""
        self._store = store
        self._config = config
        self._metrics = metrics
        # Weak: a model goes away with the last bundle and request that hold it.
        self._open: WeakValueDictionary[str, Model] = WeakValueDictionary()

    def open(self, version: str, beside: Collection[str]) -> Model:
        """Returns the model of a bundle, verified and warmed up; the same object if the model is open already.

        Args:
            version: bundle version.
            beside: versions of the bundles that stay open, so that memory has to hold them in addition.

        Raises:
            BundleError: a gate refused it; see `retrieval.serving.bundles.verification`. Gate ``model``: another bundle
                of this model version has a different tower.
        """
        manifest = self._store.manifest(version)
        files = files_of(manifest)
        self._store.verify(version, files)
        identity = (
            *(manifest.files[name].sha256 for name in files if name != GOLDEN_QUERIES),
            json.dumps(manifest.feature_schema),
        )
        model = self._open.get(manifest.model_version)
        sizes = measure_files(self._store.path(version), manifest, files if model is None else (GOLDEN_QUERIES,))
        check_memory(version, sizes, 1 if beside or self._config.unload_first else 2, available_bytes())
        if model is None:
            tower = self._read_tower(manifest)
            parser, merger = QueryParser(tower.schema), Merger(tower.schema)
            model = Model(manifest.model_version, version, tower, parser, merger, identity)
        elif model.identity != identity:
            raise BundleRefused(
                version,
                "model",
                f"its tower differs from that of bundle {model.bundle_version}, though both name model "
                f"{model.version}; publish it under a model version of its own",
            )
        golden_queries = read_golden_queries(self._store.path(manifest.bundle_version), manifest)
        count = len(golden_queries)
        embeddings = read_contents(version, GOLDEN_QUERIES, lambda: model.tower.embed(golden_queries.columns, count))
        check_embeddings(version, embeddings, golden_queries.embeddings)
        _check_unit_length(version, embeddings)
        self._open[manifest.model_version] = model
        return model

    def _read_tower(self, manifest: Manifest) -> QueryTower:
        version, config = manifest.bundle_version, self._config
        folder = self._store.path(version)
        schema = read_contents(version, VOCABULARIES, lambda: read_schema(folder, manifest.feature_schema))
        encoders = read_contents(
            version,
            TEXT_ENCODERS,
            lambda: open_text_encoders(folder, schema, config.threads + 1, config.text_cache_size, self._metrics),
        )
        return read_contents(
            version,
            QUERY_TOWER,
            lambda: QueryTower(folder / QUERY_TOWER, schema, encoders, manifest.dimension, config.threads + 1),
        )


def files_of(manifest: Manifest) -> tuple[str, ...]:
    """Returns the paths in a bundle of the files that this service reads.

    Raises:
        BundleRefused: gate ``contents``, if the manifest's text encoders are malformed.
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
