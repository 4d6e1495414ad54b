"""The command `embed-items`, which embeds a catalogue of any size."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Literal

from retrieval.store.location import resolve
from trainer.cli import console
from trainer.cli.rich_progress import RichProgress
from trainer.cli.store_commands import Json, Store, find_version, open_store, print_json
from trainer.embedding.embed import embed_items as embed_all
from trainer.embedding.engine import Engine, LocalEngine
from trainer.embedding.tasks import Job
from trainer.errors import RunError


def embed_items(
    *,
    store: Store,
    items: str,
    to: str,
    bundle: str | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str = "auto",
    processes: int | None = None,
    slice_rows: int = 50_000,
    as_json: Json = False,
) -> None:
    """Embed an items table of any size with the item tower of a bundle, on this machine or on a Ray cluster.

    Example: `python -m trainer embed-items --store s3://shop/store --items s3://shop/items --to s3://shop/vectors
    --engine ray --ray-address HOST:6379`

    First all rows are checked: bad cells, and ids that are in several rows, end the command with file and row before
    anything is embedded. Then slices of rows are embedded in any order, each to a Parquet file with the columns id and
    vector. The same command again goes on where it ended, and refuses a folder that holds vectors of another model, of
    other items or of other slices. The bytes do not depend on engine, number of machines, order or restarts.

    `add-items --vectors FOLDER` makes a bundle of the vectors. With Ray, paths have to lead to the same folder on all
    machines; else name URLs. Credentials come from the environment of each machine. See docs/shards.md.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        items: Items table: a Parquet file, or a folder or URL that holds its Parquet files, with the columns of the
            recipe's items table.
        to: Folder or URL for the vectors: a new one, or that of the same command before.
        bundle: Version of the bundle whose item tower embeds. Default: the live bundle.
        engine: local: processes of this machine. ray: the nodes of a Ray cluster (extra ray).
        ray_address: Address of the cluster, HOST:PORT; auto: the one on this machine.
        processes: Number of processes of the local engine; each takes about 1 GB. Default: one for each core.
        slice_rows: Largest number of rows of a slice, which a process holds in memory at once.
        as_json: Print the result as JSON on stdout.
    """
    if slice_rows < 1:
        console.fail(f"--slice-rows is {slice_rows}, expected at least 1")
    if processes is not None and (processes < 1 or engine == "ray"):
        console.fail(f"--processes is {processes}, expected at least 1, and the local engine")
    began = time.monotonic()
    opened = open_store(store)
    version = find_version(opened, bundle)
    progress = RichProgress()

    def open_engine(job: Job) -> Engine:
        if engine == "local":
            return LocalEngine(job, processes or len(os.sched_getaffinity(0)))
        try:
            from trainer.embedding.ray_engine import RayEngine
        except ImportError as error:
            raise RunError(
                "--engine ray needs the extra ray: pip install 'two-tower-retrieval[trainer,ray]'"
            ) from error
        return RayEngine(job, ray_address, progress.note)

    place = resolve(store)
    manifest = opened.manifest(version)
    try:
        done = embed_all(
            str(place.absolute()) if isinstance(place, Path) else place,
            manifest,
            items,
            to,
            slice_rows=slice_rows,
            open_engine=open_engine,
            progress=progress,
        )
    except KeyboardInterrupt:
        for process in active_children():  # else they would finish their slices first
            process.terminate()
        progress.note("stopped; the same command goes on after the parts that are complete")
        sys.exit(130)  # an end at once would leave semaphores of the processes behind
    seconds = time.monotonic() - began
    console.console.print(
        f"{done.plan.row_count:,} items of {len(done.plan.files):,} files embedded with {version}: {done.computed:,} "
        f"of {done.part_count:,} parts computed now, in {seconds:.1f} s",
        markup=False,
    )
    console.console.print(
        f"vectors: {to}\nmake a bundle of them: `python -m trainer add-items --store {store} --vectors {to}`",
        markup=False,
    )
    result = {
        "to": to,
        "bundle_version": version,
        "items": done.plan.row_count,
        "files": len(done.plan.files),
        "parts": done.part_count,
        "computed": done.computed,
        "damaged": done.damaged,
        "seconds": round(seconds, 3),
    }
    print_json(result, as_json)
