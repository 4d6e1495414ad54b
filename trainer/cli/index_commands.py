"""The subcommand that compares kinds of index on a bundle: `tune-index`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter

from retrieval.bundle.golden_queries import GoldenQueries
from retrieval.bundle.layout import GOLDEN_QUERIES, VECTORS
from retrieval.index.errors import FaissMissing
from retrieval.index.faiss_index import import_faiss
from retrieval.store.store import BundleStore
from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import Json, Store, print_json
from trainer.errors import RunError
from trainer.recipe.recipe import Index

Kind = Literal["annoy", "faiss_hnsw", "faiss_ivf"]
_QUERIES = 200


def tune_index(
    *,
    store: Store,
    bundle: str | None = None,
    kinds: Annotated[list[Kind] | None, Parameter(consume_multiple=True)] = None,
    min_recall: float = 0.95,
    out: Path = Path("index.html"),
    as_json: Json = False,
) -> None:
    """Compare kinds and parameters of index on the vectors of a bundle, and recommend an [index] table.

    Recall and time are measured as the ANN service searches, one query at a time. The queries are the bundle's
    golden queries, held-out users, and made ones as far from their nearest item, 200 in all.

    Example: `python -m trainer tune-index --store store`

    Args:
        store: Folder of bundles.
        bundle: Version. Default: the live one.
        kinds: annoy, faiss_hnsw, faiss_ivf. Default: all that are installed.
        min_recall: Of the exact 100 nearest items, the share to find.
        out: Page with the plots: recall against time, size, and time to build.
        as_json: Print all measurements as JSON on stdout.
    """
    if not 0.0 < min_recall <= 1.0:
        raise RunError(f"--min-recall {min_recall:g}: above 0, at most 1")
    opened = BundleStore(store)
    pointer = opened.live()
    if bundle is None and pointer is None:
        raise RunError(f"no bundle of {store} is live; name one with --bundle")
    manifest = opened.verify(bundle or pointer.version, [VECTORS, GOLDEN_QUERIES])
    folder = opened.path(manifest.bundle_version)
    vectors = np.load(folder / VECTORS, mmap_mode="r").view(np.ndarray)
    golden_queries = GoldenQueries.read(folder / GOLDEN_QUERIES).embeddings[:_QUERIES]

    # Here, because plotly takes time that other commands need not wait for.
    from trainer.tuning.index_plot import write_page
    from trainer.tuning.index_sweep import perturb_items, recommend, sweep, to_json, to_recipe

    queries = np.concatenate([golden_queries, perturb_items(vectors, golden_queries, _QUERIES - len(golden_queries))])
    with RichProgress().working("measuring") as tell, tempfile.TemporaryDirectory() as scratch:
        settings = [Index(kind=kind) for kind in kinds or _installed_kinds()]
        measured, scanned = sweep(vectors, queries, settings, Path(scratch), tell)
    rows = []
    for one in measured:
        point = one.cheapest(min_recall)
        reached = point or one.points[-1]
        rows.append(
            {
                "index": one.name,
                "budget": reached.budget,
                "recall\n@100": f"{reached.recall_at_100:.4f}" + ("" if point else " (too low)"),
                "median\nus": round(reached.median_us),
                "p95\nus": round(reached.p95_us),
                "bytes\nan item": round(one.bytes_per_item),
                "build\ns": round(one.build_s, 1),
            }
        )
    scan_row = {"index": "exact scan", "budget": "", "recall\n@100": "1.0000", "median\nus": round(scanned.median_us)}
    console.print_rows(
        f"{manifest.bundle_version}, {len(vectors):,} items, {len(golden_queries)} golden queries and "
        f"{len(queries) - len(golden_queries)} made queries, at the first budget that finds {min_recall:g}",
        [*rows, scan_row],
    )
    chosen, point = recommend(measured, min_recall)
    write_page(out, f"index of {manifest.bundle_version}", measured, scanned, min_recall, chosen)
    recipe = to_recipe(chosen, min_recall)
    console.console.print(f"plots: {out}\nrecommended, {point.median_us:,.0f} us a search:\n\n", end="")
    console.console.print(recipe, markup=False)
    if scanned.median_us < point.median_us:
        console.console.print(
            "\nthe exact scan is quicker than any index here, so the ANN service scans whatever the index"
        )
    print_json({**to_json(measured, scanned), "recommended": recipe}, as_json)


def _installed_kinds() -> list[Kind]:
    try:
        import_faiss()
    except FaissMissing as error:
        console.console.print(f"annoy alone: {error}")
        return ["annoy"]
    return ["annoy", "faiss_hnsw", "faiss_ivf"]
