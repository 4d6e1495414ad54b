"""Publishes a finished run as a bundle.

```
run ─► export ─► index selection ─► golden queries ─► gates ─► report ─► store.commit ─► manifest
```
"""

from __future__ import annotations

import dataclasses
import json

from retrieval.bundle.layout import EVALUATION, GOLDEN_QUERIES, INDEX, REPORT
from retrieval.bundle.manifest import FileEntry, Manifest, format_version_of
from retrieval.index.recall import measure_recall
from retrieval.index.sharding import describe_shards
from retrieval.store.store import BundleStore
from trainer.data.splits import Data
from trainer.evaluation.baselines import BASELINE_NAMES
from trainer.evaluation.comparison import compare
from trainer.evaluation.evaluate import MODEL, Evaluation
from trainer.model.embeddings import embed_items, embed_queries, raw_queries
from trainer.progress import SILENT, Progress
from trainer.publishing import gates, golden_query_maker, index_selection
from trainer.publishing.catalogue import write_catalogue
from trainer.publishing.export import export_model
from trainer.publishing.exported_text_encoders import ExportedTextEncoders
from trainer.publishing.held_out_queries import HeldOutQueries, sample_users
from trainer.publishing.report import page
from trainer.publishing.report.collect import collect
from trainer.publishing.shards import cut_into_shards
from trainer.training.saved_run import Run


def publish(store: BundleStore, run: Run, data: Data, evaluation: Evaluation, progress: Progress = SILENT) -> Manifest:
    """Writes a bundle of the run to the store, not yet live, and returns its manifest.

    A bundle that fails a gate is stored too, so that it can be inspected; `BundleStore.promote` refuses it.

    Args:
        store: Store to write to.
        run: Finished run.
        data: Data set and its split. The queries of held-out users serve to measure recall and as golden queries.
        evaluation: Evaluation of the run with the baselines of the recipe's gates, kept in the bundle.
        progress: Receives the progress.

    Raises:
        ExportError: An export cannot be written, or its embeddings differ from the trained tower's.
        StoreError: The store cannot be written; nothing of the bundle is left.
    """
    model, (dataset, parts) = run.model, data
    recipe = model.recipe
    query_tower, item_tower = model.towers
    users = sample_users(recipe, parts)
    columns = raw_queries(recipe, dataset, model.schemas, parts.known, users, parts.test)
    text_encoders = ExportedTextEncoders(model.schemas, columns, dataset)
    queries = HeldOutQueries(users, columns, embed_queries(query_tower, text_encoders.schemas, columns, len(users)))
    vectors = embed_items(item_tower, model.schemas, dataset)
    popularity = (parts.known if run.refitted else parts.train).item_counts(len(vectors))
    comparison = compare(store, recipe, data, users=users, queries=queries.embeddings, vectors=vectors)
    shard_count = recipe.index.shards
    version, live = store.new_version(), store.live()
    parent = live.version if live else None
    with store.stage(version) as folder:
        golden = queries.first(golden_query_maker.COUNT)
        text_encoders.write(folder)
        export_model(model, text_encoders.schemas.encode_queries(golden.columns, len(golden.users)), folder)
        write_catalogue(folder, recipe, dataset.items, vectors, popularity)
        cut_into_shards(folder, dataset.items, vectors, golden.columns, golden.embeddings, shard_count)
        with progress.working("publishing") as tell:
            index = index_selection.build(
                vectors, queries.embeddings, folder / INDEX, settings=recipe.index, seed=recipe.seed, tell=tell
            )
        # The gate judges the file that was written, so its recall is measured once more.
        recall = measure_recall(folder / INDEX, vectors, queries.embeddings, index, shard_count)
        index = dataclasses.replace(index, recall_at_100=recall)
        shards = describe_shards(folder, vectors, queries.embeddings, index, shard_count)
        golden_query_maker.make_golden_queries(golden.columns, golden.embeddings, vectors, dataset.items.ids).write(
            folder / GOLDEN_QUERIES
        )
        metrics = evaluation.metrics[MODEL]
        baselines = {key: evaluation.metrics.get(BASELINE_NAMES[key]) for key in recipe.gates.baselines}
        results = gates.judge(recipe, metrics, baselines, recall, comparison)
        measured = {
            **dataclasses.asdict(evaluation),
            "comparison": dataclasses.asdict(comparison),
            **text_encoders.measure(query_tower, columns, vectors),
            "gates": gates.to_json(results),
        }
        (folder / EVALUATION).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        report = collect(
            run,
            data,
            measured,
            results,
            version=version,
            parent=parent,
            queries=queries,
            vectors=vectors,
            index_path=folder / INDEX,
            index=index,
        )
        page.write(folder / REPORT, report)

        def describe(files: dict[str, FileEntry]) -> Manifest:
            return Manifest(
                bundle_version=version,
                model_version=run.model_version,
                parent_version=parent,
                dimension=vectors.shape[1],
                item_count=len(vectors),
                index=index,
                feature_schema=model.schemas.query.to_json(),
                item_feature_schema=model.schemas.item.to_json(),
                attributes=dataset.items.attribute_types,
                files=files,
                metrics=metrics,
                seed=recipe.seed,
                git_commit=run.git_commit,
                recipe=recipe.to_json(),
                gates=results,
                shards=shards,
                format_version=format_version_of(shards),
            )

        return store.commit(folder, describe)
