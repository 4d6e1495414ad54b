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
from trainer.data.dataset import Dataset
from trainer.data.splits import Parts
from trainer.evaluation.comparison import compare
from trainer.evaluation.evaluate import MODEL, POPULARITY, Evaluation, reads_requests
from trainer.model.embeddings import embed_items, embed_queries, raw_queries
from trainer.progress import SILENT, Progress
from trainer.publishing import gates, index_selection
from trainer.publishing.export import export_query_tower
from trainer.publishing.golden_queries import make_golden_queries
from trainer.publishing.lexical import write_lexical
from trainer.publishing.exported_text_encoders import ExportedTextEncoders
from trainer.publishing.report.measures import collect
from trainer.training.run import Run

_GOLDEN_QUERIES = 32
_RECALL_QUERIES = 1000


def publish(
    store: BundleStore,
    run: Run,
    dataset: Dataset,
    parts: Parts,
    evaluation: Evaluation,
    progress: Progress = SILENT,
) -> Manifest:
    """Writes a bundle of the run to the store, not yet live, and returns its manifest.

    A bundle that fails a gate is stored too, so that it can be looked at; `BundleStore.promote` refuses it.

    Args:
        store: to write to.
        run: towers and schemas.
        dataset: the catalogue, and the users whose queries measure recall and become golden queries.
        parts: what is known of these users.
        evaluation: of the run, kept in the bundle.
        progress: what it reports to.

    Raises:
        ExportError: an exported tower answers differently, or cannot be written.
        StoreError: the store cannot be written; nothing of the bundle is left.
    """
    query_tower, item_tower = run.towers
    users = _sample_users(parts, run.recipe.seed, new_users=reads_requests(run.recipe))
    columns = raw_queries(run.recipe, dataset, run.schemas, parts.known, users, parts.test)
    texts = ExportedTextEncoders(run.schemas, columns, dataset)
    queries = embed_queries(query_tower, texts.schemas, columns, len(users))
    vectors = embed_items(item_tower, run.schemas, dataset)
    comparison = compare(store, run.recipe, dataset, parts, users=users, queries=queries, vectors=vectors)
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
                settings=run.recipe.index,
                seed=run.recipe.seed,
                tell=tell,
            )
        spec = dataclasses.replace(spec, recall_at_100=measure_recall(folder / INDEX, vectors, queries, spec))
        results = gates.judge(
            run.recipe, evaluation.metrics[MODEL], evaluation.metrics[POPULARITY], spec.recall_at_100, comparison
        )
        dataset.items.write(folder / ITEMS)
        write_lexical(run.recipe, dataset.items, folder)
        make_golden_queries(golden_columns, queries[:_GOLDEN_QUERIES], vectors, dataset.items.ids).write(
            folder / GOLDEN_QUERIES
        )
        _write_vocabularies(folder / VOCABULARIES, run)
        measured = {
            **dataclasses.asdict(evaluation),
            "comparison": dataclasses.asdict(comparison),
            **texts.measure(query_tower, columns, vectors),
            "gates": {name: dataclasses.asdict(result) for name, result in results.items()},
        }
        (folder / EVALUATION).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        page = collect(
            run,
            dataset,
            parts,
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
        page.write(folder / REPORT, page)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return Manifest(
                bundle_version=version,
                model_version=run.model_version,
                parent_version=live.version if live else None,
                dimension=vectors.shape[1],
                item_count=len(vectors),
                index=spec,
                feature_schema=run.schemas.query.to_json(),
                item_feature_schema=run.schemas.item.to_json(),
                attributes=dataset.items.attribute_types,
                files=files,
                metrics=evaluation.metrics[MODEL],
                seed=run.recipe.seed,
                git_commit=run.git_commit,
                recipe=run.recipe.to_json(),
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


def _write_vocabularies(path: Path, run: Run) -> None:
    both = {**run.schemas.query.vocabularies, **run.schemas.item.vocabularies}
    vocabularies = {name: list(vocabulary.values) for name, vocabulary in both.items()}
    path.write_text(json.dumps(vocabularies, ensure_ascii=False), encoding="utf-8")
