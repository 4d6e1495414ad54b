"""A bundle of a run, asked as the services answer: what the export and the approximate index cost."""

from __future__ import annotations

import json

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from annoy import AnnoyIndex

from bundle.errors import BundleNotFound
from bundle.features import FeatureSchema
from bundle.items import ItemTable
from bundle.manifest import INDEX, ITEMS, QUERY_TOWER, VOCABULARIES, Manifest
from bundle.store import BundleStore
from trainer.data import Dataset
from trainer.embeddings import raw_queries
from trainer.errors import RunError
from trainer.export import OUTPUT, SIGNATURE
from trainer.metrics import Scorer
from trainer.quiet import quiet_stderr
from trainer.runs import Run
from trainer.splits import Parts

_BATCH = 1024
_TOP = 100
_NOT_FOUND = -2.0
"""Score of what the index did not find: below any cosine."""


def served_scorer(store: BundleStore, version: str | None, run: Run, dataset: Dataset, parts: Parts) -> Scorer:
    """Returns what scores the items that the index finds by their cosine, and all others alike, below.

    The index is asked for 100 items more than the user knows, with the search budget of the bundle raised in the same
    proportion, as a caller does who excludes them.

    Args:
        store: that holds the bundle.
        version: of the bundle. Default: the newest one of this run.
        run: that the bundle is of.
        dataset: of the run.
        parts: what is known makes the histories.

    Raises:
        RunError: there is no such bundle of this run.
        BundleRefused: it is damaged.
    """
    manifest = _find(store, version, run)
    folder = store.path(manifest.bundle_version)
    store.verify(manifest.bundle_version, [QUERY_TOWER, INDEX, ITEMS, VOCABULARIES])
    vocabularies = json.loads((folder / VOCABULARIES).read_text(encoding="utf-8"))
    schema = FeatureSchema.from_json(manifest.feature_schema, vocabularies)
    ids = ItemTable.read(folder / ITEMS, {}).ids
    rows = np.array([dataset.items.rows[item_id] for item_id in ids])
    with quiet_stderr():
        runner = Interpreter(model_path=str(folder / QUERY_TOWER)).get_signature_runner(SIGNATURE)
    index = AnnoyIndex(manifest.dimension, "angular")
    index.load(str(folder / INDEX))
    starts = parts.known.starts(len(dataset.user_ids))

    def score(users: np.ndarray) -> np.ndarray:
        raw = raw_queries(run.recipe, dataset, run.schemas, parts.known, users, parts.test)
        inputs = schema.encode(raw, len(users))
        scores = np.full((len(users), len(dataset.items.ids)), _NOT_FOUND, dtype=np.float32)
        for start in range(0, len(users), _BATCH):
            batch = {name: values[start : start + _BATCH] for name, values in inputs.items()}
            embeddings = np.array(runner(**batch)[OUTPUT])
            for at, embedding in enumerate(embeddings, start):
                known = int(starts[users[at] + 1] - starts[users[at]])
                budget = manifest.index.search_budget * (_TOP + known) // _TOP
                found, distances = index.get_nns_by_vector(embedding, _TOP + known, budget, include_distances=True)
                scores[at, rows[found]] = 1 - np.square(distances) / 2  # cosine of unit vectors at that distance
        return scores

    return score


def _find(store: BundleStore, version: str | None, run: Run) -> Manifest:
    if version is not None:
        try:
            manifest = store.manifest(version)
        except BundleNotFound as error:
            raise RunError(f"{store.root} holds no bundle {version}; `trainer bundles` lists them") from error
        if manifest.model_version != run.model_version:
            raise RunError(
                f"bundle {version} is of model {manifest.model_version}, the run made {run.model_version}; "
                "evaluate the run that the bundle was published from"
            )
        return manifest
    for candidate in sorted(store.versions(), reverse=True):
        manifest = store.manifest(candidate)
        if manifest.model_version == run.model_version:
            return manifest
    raise RunError(f"{store.root} holds no bundle of this run; `python -m trainer publish` makes one")
