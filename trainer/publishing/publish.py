"""Makes a run a bundle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from retrieval.bundle.layout import (
    EVALUATION,
    GOLDEN_QUERIES,
    INDEX,
    ITEM_TOWER,
    ITEMS,
    QUERY_TOWER,
    QUERY_TOWER_SAVED_MODEL,
    REPORT,
    VECTORS,
    VOCABULARIES,
)
from retrieval.bundle.manifest import FileEntry, Manifest
from retrieval.index.recall import measure_recall
from retrieval.store.store import BundleStore
from trainer.data.splits import Data, Parts
from trainer.evaluation.comparison import compare
from trainer.evaluation.evaluate import MODEL, POPULARITY, Evaluation
from trainer.evaluation.task import reads_requests
from trainer.features.schemas import Schemas
from trainer.model.embeddings import embed_items, embed_queries, raw_queries
from trainer.progress import SILENT, Progress
from trainer.publishing import gates, index_selection
from trainer.publishing.export import export_query_tower
from trainer.publishing.golden_queries import make_golden_queries
from trainer.publishing.lexical import write_lexical
from trainer.publishing.published_texts import ExportedTexts
from trainer.publishing.report import page
from trainer.publishing.report.measures import collect
from trainer.training.run import Run

_GOLDEN_QUERIES = 32
_RECALL_QUERIES = 1000


def publish(
    store: BundleStore,
    run: Run,
    data: Data,
    evaluation: Evaluation,
    progress: Progress = SILENT,
) -> Manifest:
    """Writes a bundle of the run to the store, not yet live, and returns its manifest.

    A bundle that fails a gate is stored too, so that it can be looked at; `BundleStore.promote` refuses it.

    Args:
        store: to write to.
        run: Finished run.
        data: Data set and its split: the catalogue, and the users whose queries measure recall and become golden
            queries.
        evaluation: of the run, kept in the bundle.
        progress: what it reports to.

    Raises:
        ExportError: an exported tower answers differently, or cannot be written.
        StoreError: the store cannot be written; nothing of the bundle is left.
    """
    dataset, parts = data
    recipe, schemas = run.model.recipe, run.model.schemas
    query_tower, item_tower = run.model.towers
    users = _sample_users(parts, recipe.seed, new_users=reads_requests(recipe))
    columns = raw_queries(recipe, dataset, schemas, parts.known, users, parts.test)
    texts = ExportedTexts(schemas, columns, dataset)
    queries = embed_queries(query_tower, texts.schemas, columns, len(users))
    vectors = embed_items(item_tower, schemas, dataset)
    comparison = compare(store, recipe, data, users=users, queries=queries, vectors=vectors)
    version = store.new_version()
    live = store.live()
    with store.stage(version) as folder:
        golden_columns = {name: column[:_GOLDEN_QUERIES] for name, column in columns.items()}
        texts.write(folder)
        golden_inputs = texts.schemas.encode_queries(golden_columns, len(users[:_GOLDEN_QUERIES]))
        export_query_tower(query_tower, golden_inputs, folder / QUERY_TOWER_SAVED_MODEL, folder / QUERY_TOWER)
        item_tower.save(folder / ITEM_TOWER)
        np.save(folder / VECTORS, vectors, allow_pickle=False)
        with progress.working("publishing") as tell:
            spec = index_selection.build(
                vectors,
                queries,
                folder / INDEX,
                settings=recipe.index,
                seed=recipe.seed,
                tell=tell,
            )
        spec = dataclasses.replace(spec, recall_at_100=measure_recall(folder / INDEX, vectors, queries, spec))
        results = gates.judge(
            recipe, evaluation.metrics[MODEL], evaluation.metrics[POPULARITY], spec.recall_at_100, comparison
        )
        dataset.items.write(folder / ITEMS)
        write_lexical(recipe, dataset.items, folder)
        make_golden_queries(golden_columns, queries[:_GOLDEN_QUERIES], vectors, dataset.items.ids).write(
            folder / GOLDEN_QUERIES
        )
        _write_vocabularies(folder / VOCABULARIES, schemas)
        measured = {
            **dataclasses.asdict(evaluation),
            "comparison": dataclasses.asdict(comparison),
            **texts.measure(query_tower, columns, vectors),
            "gates": {name: dataclasses.asdict(result) for name, result in results.items()},
        }
        (folder / EVALUATION).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        report = collect(
            run,
            data,
            measured,
            results,
            version=version,
            parent=live.version if live else None,
            users=users,
            queries=queries,
            vectors=vectors,
            index_path=folder / INDEX,
            spec=spec,
        )
        page.write(folder / REPORT, report)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return Manifest(
                bundle_version=version,
                model_version=run.model_version,
                parent_version=live.version if live else None,
                dimension=vectors.shape[1],
                item_count=len(vectors),
                index=spec,
                feature_schema=schemas.query.to_json(),
                item_feature_schema=schemas.item.to_json(),
                attributes=dataset.items.attribute_types,
                files=files,
                metrics=evaluation.metrics[MODEL],
                seed=recipe.seed,
                git_commit=run.git_commit,
                recipe=recipe.to_json(),
                gates=results,
            )

        return store.commit(folder, describe)


def _sample_users(parts: Parts, seed: int, *, new_users: bool) -> np.ndarray:
    """Returns up to 1,000 users of the test part, or of the known part where the test has none known.

    `new_users` takes those of the test of whom nothing is known, too.
    """
    known, tested = (np.flatnonzero(part.user_counts) for part in (parts.known, parts.test))
    users = tested if new_users else np.intersect1d(known, tested)
    if not len(users):
        users = known
    return np.random.default_rng(seed).permutation(users)[:_RECALL_QUERIES]


def _write_vocabularies(path: Path, schemas: Schemas) -> None:
    both = {**schemas.query.vocabularies, **schemas.item.vocabularies}
    vocabularies = {name: list(vocabulary.values) for name, vocabulary in both.items()}
    path.write_text(json.dumps(vocabularies, ensure_ascii=False), encoding="utf-8")
