"""The command `tune-index`, which compares kinds of index on a bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter

from retrieval.bundle.catalogue.parts import paths_of, read_vectors
from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, VECTORS
from retrieval.index.errors import FaissMissing
from retrieval.index.faiss_index import import_faiss
from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import Json, Store, find_version, open_store, print_json
from trainer.errors import RunError
from trainer.recipe.recipe import Index

Kind = Literal["annoy", "faiss_hnsw", "faiss_ivf"]
Storage = Literal["float32", "float16", "int8"]
_QUERIES = 200
"""Number of queries on which recall and search time are measured."""


def tune_index(
    *,
    store: Store,
    bundle: str | None = None,
    kinds: Annotated[list[Kind] | None, Parameter(consume_multiple=True)] = None,
    storages: Annotated[list[Storage] | None, Parameter(consume_multiple=True)] = None,
    min_recall: float = 0.95,
    out: Path | None = None,
    as_json: Json = False,
) -> None:
    """Compare kinds and parameters of index on the vectors of a bundle, and recommend an [index] table.

    Recall and time are measured as the ANN service searches, one query at a time. There are 200 queries: the bundle's
    golden queries, and synthetic ones whose nearest items are as far away.

    Example: `python -m trainer tune-index --store store`

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        bundle: Version of the bundle whose vectors are indexed. Default: the live bundle.
        kinds: Kinds of index to compare. Default: all that are installed.
        storages: How FAISS indexes hold the vectors: float32, float16 or int8; several are compared. Default: float32.
        min_recall: Recall of the exact 100 nearest items that the recommended index reaches, above 0 and at most 1.
        out: HTML page to write, with plots of recall against search time, size and build time. Default:
            runs/index-BUNDLE.html.
        as_json: Print all measurements as JSON on stdout.
    """
    if not 0.0 < min_recall <= 1.0:
        raise RunError(f"--min-recall is {min_recall:g}, expected above 0 and at most 1")
    opened = open_store(store)
    manifest = opened.manifest(find_version(opened, bundle))
    opened.verify(manifest.bundle_version, [*paths_of(manifest, VECTORS), GOLDEN_QUERIES])
    folder = opened.path(manifest.bundle_version)
    vectors = read_vectors(folder, manifest)
    golden_queries = GoldenQueries.read(folder / GOLDEN_QUERIES).embeddings[:_QUERIES]

    # Imported here, because plotly takes time, and other commands do not need it.
    from trainer.tuning.index_plot import write_page
    from trainer.tuning.index_sweep import perturb_items, recommend, sweep, to_json, to_recipe

    queries = np.concatenate([golden_queries, perturb_items(vectors, golden_queries, _QUERIES - len(golden_queries))])
    with RichProgress().working("measuring") as tell, tempfile.TemporaryDirectory() as temporary:
        settings = [
            Index(kind=kind, storage=storage)
            for kind in kinds or _installed_kinds()
            for storage in ((storages or ["float32"]) if kind != "annoy" else ["float32"])
        ]
        measured, exact_scan = sweep(vectors, queries, settings, Path(temporary), tell)
    rows = []
    for index in measured:
        point = index.cheapest(min_recall)
        shown = point or index.points[-1]
        rows.append(
            {
                "index": index.name,
                "budget": shown.budget,
                "recall\n@100": f"{shown.recall_at_100:.4f}" + ("" if point else " (too low)"),
                "median\nus": round(shown.median_us),
                "p95\nus": round(shown.p95_us),
                "bytes\nan item": round(index.bytes_per_item),
                "build\ns": round(index.build_s, 1),
            }
        )
    scan_row = {
        "index": "exact scan",
        "budget": "",
        "recall\n@100": "1.0000",
        "median\nus": round(exact_scan.median_us),
    }
    target = console.results(as_json)
    console.print_rows(
        f"{manifest.bundle_version}, {len(vectors):,} items, {len(golden_queries)} golden queries and "
        f"{len(queries) - len(golden_queries)} synthetic queries, at the first budget with recall {min_recall:g}",
        [*rows, scan_row],
        target,
    )
    chosen, point = recommend(measured, min_recall)
    out = out or Path("runs", f"index-{manifest.bundle_version}.html")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {out.parent}: {error}; name another file with --out") from error
    write_page(out, f"index of {manifest.bundle_version}", measured, exact_scan, min_recall, chosen)
    recipe = to_recipe(chosen, min_recall)
    console.console.print(f"plots: {out}")
    target.print(f"recommended, {point.median_us:,.0f} us a search:\n\n", end="")
    target.print(recipe, markup=False)
    if exact_scan.median_us < point.median_us:
        target.print(
            "\nthe exact scan is quicker than every index here, so the ANN service scans whichever index it has"
        )
    print_json({**to_json(measured, exact_scan), "recommended": recipe}, as_json)


def _installed_kinds() -> list[Kind]:
    try:
        import_faiss()
    except FaissMissing as error:
        console.console.print(f"only annoy is compared: {error}")
        return ["annoy"]
    return ["annoy", "faiss_hnsw", "faiss_ivf"]
