"""The bundles of a store, as the pages show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from retrieval.bundle.errors import BundleError, BundleNotFound, BundleRefused
from retrieval.bundle.layout import REPORT
from retrieval.bundle.manifest import GateResult, Manifest
from retrieval.store.live import LivePointer
from retrieval.store.store import BundleStore

PAGE_SIZE = 20
"""Number of bundles on a page of the list."""

REPORT_MAX_BYTES = 64 << 20
"""Largest report that is shown."""

SHOWN_METRICS = ("ndcg@10", "recall@100")
"""Metrics of the list, where bundles have them."""


@dataclass(frozen=True)
class Entry:
    """A bundle of the list.

    Attributes:
        version: Version of the bundle.
        state: ``"live"``, ``"previous"`` or empty.
        damage: Why its manifest cannot be read; empty if it can.
        model: Version of its model.
        item_count: Number of items.
        metrics: Values of `Listing.metrics`; None where it was not measured.
        index: Kind of the index.
        gate_count: Number of publish gates.
        failed: Names of the publish gates that keep it from going live.
        forced: Names of the publish gates that were overridden.
    """

    version: str
    state: str = ""
    damage: str = ""
    model: str = ""
    item_count: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    index: str = ""
    gate_count: int = 0
    failed: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """A page of the list, the newest bundle first.

    Attributes:
        entries: Bundles of this page.
        live: Live pointer; None if nothing is live, or it cannot be read.
        trouble: Why the live pointer cannot be read, or why nothing is live; empty otherwise.
        total: Number of bundles of the store.
        page: Number of this page, from 1.
        page_count: Number of pages, at least 1.
        metrics: Names of the metrics that some bundle of this page has.
    """

    entries: tuple[Entry, ...]
    live: LivePointer | None
    trouble: str
    total: int
    page: int
    page_count: int
    metrics: tuple[str, ...]


def list_bundles(store: BundleStore, page: int) -> Listing:
    """Returns a page of the list; the nearest one if there is no such page.

    Raises:
        StoreError: The store cannot be listed.
    """
    live, trouble = read_live(store)
    versions = store.versions()[::-1]
    page_count = max(1, -(-len(versions) // PAGE_SIZE))
    page = min(max(page, 1), page_count)
    shown = versions[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    entries = [_to_entry(store, version, live) for version in shown]
    measured = [name for name in SHOWN_METRICS if any(entry.metrics.get(name) is not None for entry in entries)]
    return Listing(tuple(entries), live, trouble, len(versions), page, page_count, tuple(measured))


def read_live(store: BundleStore) -> tuple[LivePointer | None, str]:
    """Returns the live pointer, and why there is none if so."""
    try:
        live = store.live()
    except BundleError as error:
        return None, str(error)
    return live, "" if live else store.why_nothing_is_live()


def compare_metrics(live: Manifest, other: Manifest) -> list[tuple[str, float, float]]:
    """Returns the metrics of the list that both bundles have: name, value of the live one, value of the other."""
    names = [name for name in SHOWN_METRICS if name in live.metrics and name in other.metrics]
    return [(name, live.metrics[name], other.metrics[name]) for name in names]


def state_of(version: str, live: LivePointer | None) -> str:
    """Returns "live", "previous" or nothing."""
    if live is None:
        return ""
    return "live" if version == live.version else "previous" if version in live.previous[:1] else ""


def _to_entry(store: BundleStore, version: str, live: LivePointer | None) -> Entry:
    state = state_of(version, live)
    try:
        manifest = store.manifest(version)
    except BundleRefused as refused:
        return Entry(version, state, refused.message)
    except BundleNotFound:
        return Entry(version, state, "it was removed a moment ago")
    return Entry(
        version,
        state,
        "",
        manifest.model_version,
        manifest.item_count,
        {name: manifest.metrics.get(name) for name in SHOWN_METRICS},
        index_kind(manifest),
        len(manifest.gates),
        manifest.failed_gates,
        manifest.forced_gates,
    )


def index_kind(manifest: Manifest) -> str:
    """Returns the kind of the index, and the number of its shards if there are several."""
    kind = manifest.index.kind
    return f"{kind}, {len(manifest.shards)} shards" if manifest.shards else kind


@dataclass(frozen=True)
class Gate:
    """A publish gate, with its verdict in a word: "passed", "failed" or "forced"."""

    name: str
    verdict: str
    result: GateResult


@dataclass(frozen=True)
class Details:
    """A bundle of the store.

    Attributes:
        version: Version of the bundle.
        state: ``"live"``, ``"previous"`` or empty.
        live: Live pointer; None if nothing is live.
        damage: Why its manifest cannot be read; empty if it can.
        manifest: Manifest; None if it is damaged.
        gates: Results of the publish gates, those that failed first.
        recipe: Recipe of the training as JSON, for people to read.
        features: Names of the features of a query.
        parameters: Parameters of the index other than its seed, such as "trees 50".
        has_report: Whether its report can be shown.
    """

    version: str
    state: str
    live: LivePointer | None
    damage: str = ""
    manifest: Manifest | None = None
    gates: tuple[Gate, ...] = ()
    recipe: str = ""
    features: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    has_report: bool = False

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(entry.size_bytes for entry in self.manifest.files.values()) if self.manifest else 0


def describe(store: BundleStore, version: str) -> Details:
    """Returns the details of a bundle.

    Raises:
        InvalidVersion: `version` is not a version.
        BundleNotFound: The store has no such bundle.
        StoreError: The store cannot be reached.
    """
    live, _ = read_live(store)
    state = state_of(version, live)
    store.path(version)  # raises InvalidVersion
    try:
        manifest = store.manifest(version)
    except BundleRefused as refused:
        return Details(version, state, live, refused.message)
    gates = [Gate(name, _verdict(name, result, manifest), result) for name, result in manifest.gates.items()]
    gates.sort(key=lambda gate: gate.result.passed)
    report = manifest.files.get(REPORT)
    return Details(
        version,
        state,
        live,
        "",
        manifest,
        tuple(gates),
        json.dumps(manifest.recipe, indent=2, ensure_ascii=False),
        tuple(_name_features(manifest.feature_schema)),
        tuple(_name_parameters(manifest.index.parameters)),
        report is not None and report.size_bytes <= REPORT_MAX_BYTES,
    )


def _name_features(schema: Mapping[str, Any]) -> list[str]:
    """Returns the names in a feature schema, which the manifest has as the services read it: unchecked."""
    features = schema.get("features")
    found = cast("list[Any]", features) if isinstance(features, list) else []
    return [str(cast("dict[str, Any]", each).get("name")) for each in found if isinstance(each, dict)]


def _name_parameters(parameters: Any) -> list[str]:
    found = cast("dict[str, Any]", parameters) if isinstance(parameters, dict) else {}
    return [f"{name} {value}" for name, value in found.items() if name != "seed"]


def _verdict(name: str, result: GateResult, manifest: Manifest) -> str:
    if result.passed:
        return "passed"
    return "forced" if name in manifest.forced_gates else "failed"
