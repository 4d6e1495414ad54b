"""The commands that work on a store alone: `bundles`, `promote`, `rollback`, `add-items`, `prune`."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from retrieval.bundle.errors import BundleNotFound, BundleRefused
from retrieval.bundle.layout import EVALUATION
from retrieval.bundle.manifest import Manifest
from retrieval.store import location
from retrieval.store.location import check_is_there
from retrieval.store.store import BundleStore
from trainer.cli import console
from trainer.publishing import catalogue_update, gates
from trainer.quiet_tensorflow import import_tensorflow

Store = Annotated[str, Parameter(name="--store")]
Json = Annotated[bool, Parameter(name="--json")]
Ids = Annotated[list[str] | None, Parameter(consume_multiple=True)]


def bundles(*, store: Store, as_json: Json = False) -> None:
    """List the bundles of a store, newest first, with marks on the live one and on those that failed a publish gate.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        as_json: Print the list as JSON on stdout.
    """
    opened = open_store(store)
    pointer = opened.live()
    check_is_there(store)
    rows: list[dict[str, Any]] = []
    for version in reversed(opened.versions()):
        state = ""
        if pointer is not None and version in pointer.open_versions:
            state = "live" if version == pointer.version else "previous"
        try:
            m = opened.manifest(version)
            ndcg = m.metrics.get("ndcg@10")
            rows.append(
                {
                    "bundle": version,
                    "state": ", ".join(filter(None, (state, _gates(m)))),
                    "model": m.model_version,
                    "items": m.item_count,
                    "ndcg@10": None if ndcg is None else round(ndcg, 4),
                    "index_recall": round(m.index.recall_at_100, 4),
                }
            )
        except BundleRefused as refused:
            rows.append({"bundle": version, "state": "damaged", "model": refused.message})
    if rows:
        console.print_rows(store, rows, console.results(as_json))
    else:
        console.console.print(f"{store} holds no bundle; publish one with `python -m trainer train … --store {store}`")
    print_json(rows, as_json)


def promote(version: str, /, *, store: Store, force: bool = False) -> None:
    """Make a bundle live, after verifying all of its files.

    A bundle that failed a publish gate is refused. Each service loads the bundle within seconds; `two-tower wait`
    returns when all services have loaded it, and `two-tower status` shows the bundle that each service has loaded.
    While another process holds the lock of the store, the command waits for up to 60 seconds and names the process.

    Args:
        version: Version of the bundle, as `bundles` lists it.
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        force: Make the bundle live although it failed gates; its manifest records the failed gates.
    """
    go_live(open_store(store), version, force=force)


def rollback(*, store: Store) -> None:
    """Make the previous live bundle live again, without checking its gates: the services still have it open.

    A second roll back goes one bundle further back; `promote` returns to a newer one.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
    """
    opened = open_store(store)
    before = opened.live()
    pointer = opened.roll_back()
    console.console.print(f"live: {pointer.version}")
    if before is not None:
        console.console.print(
            f"in place of {before.version}: `python -m trainer promote {before.version} --store {store}` undoes this",
            markup=False,
        )
    if pointer.previous and pointer.previous[0] in opened.versions():
        console.console.print(f"another roll back goes further back, to {pointer.previous[0]}")


def add_items(
    *,
    store: Store,
    items: Path | None = None,
    vectors: str | None = None,
    remove: Path | None = None,
    remove_id: Ids = None,
    bundle: str | None = None,
    promote: bool = False,
    as_json: Json = False,
) -> None:
    """Publish a bundle of the same model with new, changed or withdrawn items, without a training.

    Example: `python -m trainer add-items --store store --items new.csv --remove withdrawn.txt --promote`

    The whole catalogue has to fit in the memory of this machine, also with --vectors.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        items: Table of new and changed items: CSV or Parquet, with the columns of the recipe's items table.
        vectors: Folder or URL of vectors that `embed-items` made, in place of --items: the items that it embedded are
            added and changed, and none is embedded again.
        remove: Text file with the ids of items to withdraw, one per line.
        remove_id: Ids of items to withdraw, in addition to those in the file of --remove.
        bundle: Version of the bundle whose model and items the new bundle takes over. Default: the live bundle.
        promote: Make the new bundle live, unless it fails a publish gate. Without --bundle, this is also refused if
            another bundle went live in the meantime.
        as_json: Print the result as JSON on stdout.
    """
    started = time.monotonic()
    removals = [*(catalogue_update.read_removals(remove) if remove else ()), *(remove_id or ())]
    if items is None and vectors is None and not removals:
        console.fail("nothing to add or remove; name a table with --items, or ids with --remove or --remove-id")
    if items is not None and vectors is not None:
        console.fail("--vectors names a table already, that which was embedded: leave out --items")
    opened = open_store(store)
    start = find_version(opened, bundle)
    base = opened.manifest(start)
    changes = catalogue_update.find_changes(opened, base, items, removals, vectors)
    for note in changes.notes:
        console.console.print(f"note: {note}")
    result: dict[str, Any] = {
        "bundle_version": None,
        "base": start,
        "added": len(changes.added),
        "changed": len(changes.changed),
        "removed": len(changes.removed),
        "unchanged": changes.unchanged_count,
    }
    if not len(changes):
        console.console.print(f"nothing to publish: all {changes.unchanged_count:,} rows are in {start} already")
        print_json(result, as_json)
        return
    if (changes.added or changes.changed) and changes.vectors is None:
        import_tensorflow()
    manifest = catalogue_update.publish_changes(opened, base, changes)
    result |= {"bundle_version": manifest.bundle_version, "seconds": round(time.monotonic() - started, 3)}
    console.console.print(
        f"{len(changes.added):,} items added, {len(changes.changed):,} changed, {len(changes.removed):,} removed, "
        f"{changes.unchanged_count:,} unchanged, in {result['seconds']:.1f} s; the model stays "
        f"{manifest.model_version}"
    )
    print_json(result, as_json)
    console.console.print(f"all gates but {gates.ANN_RECALL} are those of {start}: only that one was measured again")
    report_published(opened, manifest, promote=promote, expected_live=None if bundle else start)


def prune(*, store: Store, keep: int = 5) -> None:
    """Remove the oldest bundles of a store; the live bundle and the previous live bundle are always kept.

    The newest bundles are those published last, whether they were ever live or not.

    Args:
        store: Store of bundles: a folder, or a URL such as s3://bucket/prefix.
        keep: Number of newest bundles to keep, at least 1.
    """
    if keep < 1:
        console.fail(f"--keep is {keep}, expected at least 1")
    opened = open_store(store)
    check_is_there(store)
    removed = opened.prune(keep)
    pointer, left = opened.live(), opened.versions()
    live, previous = (*(pointer.open_versions if pointer else ()), None, None)[:2]
    lines = [f"removed {len(removed)}", *(f"  {version}" for version in removed), f"kept {len(left)}"]
    for version in reversed(left):
        reasons = {
            "live": version == live,
            "previous, for a roll back": version == previous,
            f"one of the newest {keep} (--keep)": version in left[-keep:],
        }
        lines.append(f"  {version}: {', '.join(reason for reason, holds in reasons.items() if holds)}")
    console.console.print("\n".join(lines), markup=False)


def open_store(store: str) -> BundleStore:
    """Returns the store that a path or URL names, which prints a line while it waits or transfers files.

    Raises:
        StoreError: The URL cannot be used.
    """
    return location.open_store(store, partial(console.console.print, markup=False))


def find_version(store: BundleStore, bundle: str | None) -> str:
    """Returns the version that a person named with ``--bundle``, or that of the live bundle.

    Raises:
        BundleNotFound: None was named, and no bundle is live.
        StoreError: The store cannot be read.
    """
    if bundle is not None:
        return bundle
    try:
        return store.live_version()
    except BundleNotFound as error:
        held = store.versions()
        hint = f"; or name a bundle with --bundle, such as {held[-1]}, the newest" if held else ""
        raise BundleNotFound(f"{error}{hint}") from error


def report_published(
    store: BundleStore,
    manifest: Manifest,
    *,
    promote: bool,
    force: bool = False,
    expected_live: str | None = None,
) -> None:
    """Prints a published bundle and the results of its gates, and makes it live if `promote` is set.

    Raises:
        BundleError: The bundle cannot be promoted, see `BundleStore.promote`.
    """
    index = manifest.index
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in index.parameters.items() if name != "seed")
    console.console.print(
        f"published {manifest.bundle_version}: {manifest.item_count:,} items, {index.kind} with "
        f"{shown}, search budget {index.search_budget}, recall@100 {index.recall_at_100:.4f}"
    )
    console.print_gates(manifest, explain=not promote)
    if promote:
        go_live(store, manifest.bundle_version, force=force, expected_live=expected_live)
    elif manifest.failed_gates:
        console.console.print(
            f"not live, as gates failed: `python -m trainer promote {manifest.bundle_version} --store {store.name} "
            "--force` overrides them"
        )
    else:
        console.console.print(
            f"not live yet: `python -m trainer promote {manifest.bundle_version} --store {store.name}`"
        )


def print_comparison(store: BundleStore, version: str) -> None:
    """Prints the comparison of a new bundle with the bundle that was live when the new one was published."""
    report = json.loads((store.path(version) / EVALUATION).read_text(encoding="utf-8"))
    console.print_comparison(report["comparison"])


def go_live(store: BundleStore, version: str, *, force: bool, expected_live: str | None = None) -> None:
    """Makes a bundle live, and prints each failed gate that `force` overrode.

    Raises:
        BundleError: The bundle cannot be promoted, see `BundleStore.promote`.
    """
    manifest = store.manifest(version)
    pointer = store.promote(version, force=force, expected_live=expected_live)
    for name in manifest.failed_gates:
        console.console.print(
            f"[bold red]FORCED past gate {name}:[/bold red] {manifest.gates[name].message}", markup=True
        )
    if manifest.failed_gates:
        back = f"; go back with `python -m trainer rollback --store {store.name}`" if pointer.previous else ""
        console.console.print(f"recorded in the manifest of {version}{back}")
    console.console.print(f"live: {version}")


def print_json(value: Any, wanted: bool) -> None:
    """Prints a value as JSON on stdout if `wanted` is true, else nothing."""
    if wanted:
        print(json.dumps(value, indent=2))


def _gates(manifest: Manifest) -> str:
    if manifest.failed_gates:
        return "failed gates"
    return "forced" if manifest.forced_gates else ""
