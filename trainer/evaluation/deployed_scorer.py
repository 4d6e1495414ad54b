"""Scores items as the services do, with exported tower and index, to measure the loss of quality that they cause."""

from __future__ import annotations

import numpy as np

from retrieval.bundle.catalogue.parts import paths_of
from retrieval.bundle.errors import BundleNotFound
from retrieval.bundle.layout import INDEX
from retrieval.bundle.manifest import Manifest
from retrieval.index.errors import FaissMissing
from retrieval.index.merged import open_indexes
from retrieval.store.store import BundleStore
from trainer.data.splits import Data
from trainer.errors import RunError
from trainer.evaluation.deployed_queries import NotComparable, embed_users, open_bundle
from trainer.evaluation.metrics import Scorer
from trainer.recipe.recipe import Recipe

_TOP = 100


def deployed_scorer(store: BundleStore, version: str | None, model_version: str, recipe: Recipe, data: Data) -> Scorer:
    """Returns a scorer that searches the index of a bundle: the score is the cosine for hits, and -inf for other items.

    The index returns 100 hits more than the user has known items, with a proportionally larger search budget, like the
    service for a request that excludes the known items.

    Args:
        store: Store that holds the bundle.
        version: Bundle version; None for the newest bundle of the model.
        model_version: Version of the model that the bundle was published from.
        recipe: Recipe of the model.
        data: Data set and its split; training and validation events make the histories.

    Raises:
        RunError: The store has no such bundle, or it is of another model.
        BundleRefused: The bundle is damaged.
    """
    dataset, parts = data
    manifest = _find(store, version, model_version)
    store.verify(manifest.bundle_version, paths_of(manifest, INDEX))
    try:
        bundle = open_bundle(store, manifest.bundle_version, recipe, dataset)
    except NotComparable as error:
        raise RunError(f"bundle {manifest.bundle_version}: {error}; publish the run again") from error
    rows = bundle.rows(dataset.items.rows)  # [item_count of the bundle]
    spec = manifest.index
    try:
        path, shard_count = store.path(manifest.bundle_version) / INDEX, max(1, len(manifest.shards))
        index = open_indexes(spec.kind, spec.metric, path, bundle.vectors, shard_count)
    except (OSError, ValueError, FaissMissing) as error:
        raise RunError(f"bundle {manifest.bundle_version}: {INDEX} cannot be opened: {error}") from error
    starts = parts.known.starts(len(dataset.user_ids))

    def score(users: np.ndarray) -> np.ndarray:
        scores = np.full((len(users), len(dataset.items.ids)), -np.inf, dtype=np.float32)
        embeddings = embed_users(bundle, recipe, dataset, parts.known, users, parts.test)
        for row, (user, embedding) in enumerate(zip(users, embeddings, strict=True)):
            known = int(starts[user + 1] - starts[user])
            budget = index.raise_budget(spec.search_budget, _TOP, _TOP + known)
            k = min(_TOP + known, manifest.item_count)
            hits = index.search(embedding[np.newaxis], k, budget)[0]
            in_catalogue = rows[hits.rows] >= 0  # the bundle may have newer items
            scores[row, rows[hits.rows][in_catalogue]] = hits.scores[in_catalogue]
        return scores

    return score


def _find(store: BundleStore, version: str | None, model_version: str) -> Manifest:
    if version is not None:
        try:
            manifest = store.manifest(version)
        except BundleNotFound as error:
            raise RunError(f"{store.name} holds no bundle {version}; `trainer bundles` lists them") from error
        if manifest.model_version != model_version:
            raise RunError(
                f"bundle {version} is of model {manifest.model_version}, the run made {model_version}; "
                "evaluate the run that the bundle was published from"
            )
        return manifest
    for candidate in sorted(store.versions(), reverse=True):
        manifest = store.manifest(candidate)
        if manifest.model_version == model_version:
            return manifest
    raise RunError(f"{store.name} holds no bundle of this run; `python -m trainer publish` makes one")
