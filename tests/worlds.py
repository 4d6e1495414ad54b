"""Complete bundles whose right answers are known: a real tower, vectors, index, items and golden queries.

Rows differ in every value, so that a test fails if axes, or values of two items, are swapped.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from annoy import AnnoyIndex

from retrieval.bundle.catalogue.items import FloatColumn, IntColumn, ItemTable, StringColumn, StringListColumn
from retrieval.bundle.catalogue.slicing import bounds_of
from retrieval.bundle.features.kinds import Categorical, History, MultiCategorical, Numeric
from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.vocabulary import Vocabulary
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, INDEX, ITEMS, POPULARITY, QUERY_TOWER, VECTORS, VOCABULARIES
from retrieval.bundle.manifest import FileEntry, IndexSpec, Manifest
from retrieval.index.lexical import files as lexical_files
from retrieval.index.merged import part_paths
from retrieval.index.sharding import describe_shards
from retrieval.store.store import BundleStore
from trainer.publishing.shards import cut_into_shards

DIMENSION = 8

SCHEMA = FeatureSchema(
    (
        Numeric("age", mean=40.0, std=10.0, description="years; leave it out where unknown"),
        Categorical("gender", vocabulary="genders"),
        Categorical("device", value_type="int", hash_buckets=16),
        MultiCategorical("likes", max_values=3, vocabulary="genres"),
        History("watched", max_values=4),
    ),
    {
        "genders": Vocabulary(("f", "m", "x")),
        "genres": Vocabulary(("comedy", "drama", "horror")),
        "items": Vocabulary(tuple(f"i{row}" for row in range(50))),
    },
)

GOLDEN_COLUMNS: dict[str, list[Any]] = {
    "age": [25.0, None, 61.0, 33.0],
    "gender": ["f", "m", None, "unheard-of"],
    "device": [7, 8, None, 9],
    "likes": [["comedy"], None, ["drama", "horror"], []],
    "watched": [["i1", "i2", "i3", "i4", "i5"], ["i9"], None, ["i49", "gone"]],
}


@dataclass(frozen=True, eq=False)
class Tower:
    """A query tower as a LiteRT file, and the embeddings of the golden queries that Keras computes with it."""

    tflite: bytes
    golden_embeddings: np.ndarray


@cache
def tower(seed: int) -> Tower:
    """Returns a tower; each seed gives another embedding space."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensorflow, about itself
        import keras
        import tensorflow as tf

        generator = np.random.default_rng(seed)
        inputs: dict[str, Any] = {}
        parts: list[Any] = []
        for feature in SCHEMA.features:
            numeric = isinstance(feature, Numeric)
            name = feature.name
            inputs[name] = keras.Input(feature.input_shape, dtype="float32" if numeric else "int32", name=name)
            if numeric:
                layer = keras.layers.Dense(DIMENSION, use_bias=False)
                part = layer(inputs[name])
            else:
                layer = keras.layers.Embedding(SCHEMA.slots(feature).slot_count, DIMENSION)
                part = layer(inputs[name])
                if feature.input_shape:
                    # Weighted by position, so that a list in the wrong order shows.
                    part = keras.layers.Dot((1, 1))([part, positions(inputs[name], keras)])
                    part = keras.layers.Reshape((DIMENSION,))(part)
            layer.set_weights([generator.normal(size=weight.shape).astype(np.float32) for weight in layer.weights])
            parts.append(part)
        model = keras.Model(inputs, keras.layers.UnitNormalization()(keras.layers.Add()(parts)))
        embeddings = np.array(model(SCHEMA.encode(GOLDEN_COLUMNS, 4)))
        signature = {
            name: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=name) for name, tensor in inputs.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            archive = keras.export.ExportArchive()
            archive.track(model)
            archive.add_endpoint("serve", lambda features: {"embedding": model(features)}, input_signature=[signature])
            archive.write_out(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
            return Tower(converter.convert(), embeddings)


def positions(slots: Any, keras: Any) -> Any:
    """Returns weights 1, 1/2, 1/3 … of list positions, 0 where padded: [batch, width, 1]."""
    width = slots.shape[1]
    weights = np.array([1.0 / (position + 1) for position in range(width)], dtype=np.float32)

    class Positions(keras.layers.Layer):
        def call(self, slots: Any) -> Any:
            return keras.ops.expand_dims(keras.ops.cast(slots > 0, "float32") * weights, -1)

    return Positions()(slots)


def unit_vectors(count: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """Returns random directions: [count, dimension] float32."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def item_table(count: int) -> ItemTable:
    """Returns items i0, i1, …: a title but for every 11th, genres, a year but for every 7th, a price but every 5th."""
    rows = range(count)
    genres: list[list[str]] = [[], ["comedy"], ["drama"], ["comedy", "drama"]]
    return ItemTable.of(
        tuple(f"i{row}" for row in rows),
        {
            "title": StringColumn.of([None if row % 11 == 0 else f"Title {row % 50}" for row in rows]),
            "genres": StringListColumn.of([genres[row % 4] for row in rows]),
            "year": IntColumn.of([None if row % 7 == 0 else 1950 + row % 70 for row in rows]),
            "price": FloatColumn.of([None if row % 5 == 0 else row / 4 for row in rows]),
        },
    )


@dataclass(frozen=True)
class BundleSpec:
    """Description of a bundle for `write_bundle`; a test can make each part faulty.

    Attributes:
        seed: Seed of the query tower.
        model_version: Model version. Empty: the version of the new bundle.
        item_count: Number of items.
        catalogue_seed: Seed of the vectors.
        vectors: Function that changes the vectors before other files are made from them.
        index: Function that writes the index file from the vectors. Default: a good index.
        damage: Function that changes the staged files before they are hashed.
        manifest: Function that changes the manifest.
        texts: Function from a row to the text of the item, for a lexical index; None: the bundle has no lexical index.
        popularity: Function from a row to the number of events of the item; None: the bundle has no popularity.
        shards: Number of shards of the catalogue; 1: an ordinary bundle.
    """

    seed: int = 1
    model_version: str = ""
    item_count: int = 300
    catalogue_seed: int = 1
    vectors: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors
    index: Callable[[np.ndarray, Path], None] | None = None
    damage: Callable[[Path], None] = lambda folder: None
    manifest: Callable[[Manifest], Manifest] = lambda manifest: manifest
    texts: Callable[[int], str] | None = None
    popularity: Callable[[int], int] | None = None
    shards: int = 1


def write_bundle(
    store: BundleStore, spec: BundleSpec | None = None, *, promote: bool = True, **fields: Any
) -> Manifest:
    """Writes a bundle, by default promotes it, and returns its manifest."""
    spec = replace(spec or BundleSpec(), **fields)
    version = store.new_version()
    model = tower(spec.seed)
    vectors = spec.vectors(unit_vectors(spec.item_count, spec.catalogue_seed))
    items = item_table(spec.item_count)
    scores = model.golden_embeddings @ vectors.T  # [golden_queries, item_count]
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]  # [golden_queries, 20]
    with store.stage(version) as folder:
        (folder / QUERY_TOWER).write_bytes(model.tflite)
        vocabularies = {name: vocabulary.values for name, vocabulary in SCHEMA.vocabularies.items()}
        (folder / VOCABULARIES).write_text(json.dumps(vocabularies))
        np.save(folder / VECTORS, vectors)
        items.write(folder / ITEMS)
        GoldenQueries(
            GOLDEN_COLUMNS,
            model.golden_embeddings,
            [[items.ids[row] for row in rows] for rows in top],
            np.take_along_axis(scores, top, axis=1),
        ).write(folder / GOLDEN_QUERIES)
        if spec.texts is not None:
            texts = [spec.texts(row) for row in range(spec.item_count)]
            lexical_files.write(folder, ("title",), texts, items.ids)
        if spec.popularity is not None:
            np.save(folder / POPULARITY, np.array([spec.popularity(row) for row in range(spec.item_count)], np.uint32))
        index = IndexSpec("annoy", "angular", {"trees": 10, "seed": 3}, 2000, 0.99)
        if spec.shards > 1:
            cut_into_shards(folder, items, vectors, GOLDEN_COLUMNS, model.golden_embeddings, spec.shards)
            bounds = bounds_of(spec.item_count, spec.shards)
            for path, (start, stop) in zip(part_paths(folder / INDEX, spec.shards), bounds, strict=True):
                build_index(vectors[start:stop], path)
        else:
            (spec.index or build_index)(vectors, folder / INDEX)
        shards = describe_shards(folder, vectors, model.golden_embeddings, index, spec.shards)
        spec.damage(folder)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return spec.manifest(
                Manifest(
                    bundle_version=version,
                    model_version=spec.model_version or version,
                    parent_version=None,
                    dimension=DIMENSION,
                    item_count=spec.item_count,
                    index=index,
                    feature_schema=SCHEMA.to_json(),
                    attributes=items.attribute_types,
                    files=files,
                    metrics={"ndcg@10": 0.1},
                    seed=spec.seed,
                    git_commit="",
                    recipe={},
                    shards=shards,
                    format_version=3 if shards else 1,
                )
            )

        manifest = store.commit(folder, describe)
    if promote:
        store.promote(version)
    return manifest


def build_index(vectors: np.ndarray, path: Path, metric: Any = "angular", dimension: int = DIMENSION) -> None:
    """Writes an Annoy index; equal arguments give equal bytes."""
    index = AnnoyIndex(dimension, metric)
    index.set_seed(3)
    for row, vector in enumerate(vectors):
        index.add_item(row, vector[:dimension])
    index.build(10, n_jobs=1)
    index.save(str(path))


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Returns the first true value of `condition`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        pause.wait(0.005)
