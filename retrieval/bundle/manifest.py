"""The manifest of a bundle."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from retrieval.bundle.errors import BundleRefused, InvalidVersion
from retrieval.bundle.layout import MANIFEST

FORMAT_VERSION = 1
"""Raised by one with every change that an older reader would misread."""

_SEVERAL_INTERESTS_FORMAT_VERSION = 2
"""Of bundles whose queries had several embeddings. Earlier versions of this program wrote them; none reads them now."""

_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_version(version: str) -> str:
    """Returns `version` where it is one.

    Raises:
        InvalidVersion: it is not; it never reaches a path then.
    """
    if not _VERSION.fullmatch(version):
        raise InvalidVersion(f"{version[:80]!r} is not a version: expected the form 20261124T031645Z-3f9a1c")
    return version


def new_version(after: str | None = None) -> str:
    """Returns a version of this moment; one that sorts after `after` even where the clock was set back."""
    now = datetime.now(UTC).replace(microsecond=0)
    if after is not None:
        last = datetime.strptime(check_version(after).split("-")[0], _TIME).replace(tzinfo=UTC)
        now = max(now, last + timedelta(seconds=1))
    return f"{now.strftime(_TIME)}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of a bundle."""

    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Checks both."""
        if self.size_bytes < 0 or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"size_bytes {self.size_bytes}, sha256 {self.sha256[:80]!r}: not those of a file")


@dataclass(frozen=True)
class IndexSpec:
    """How the index was built and how it is searched.

    Attributes:
        kind: ``"annoy"``, ``"faiss_hnsw"`` or ``"faiss_ivf"``, as of `retrieval.index.registry`; the name of the file is the
            same.
        metric: ``"angular"``: the vectors have unit length, so its order is that of the dot product.
        parameters: what the builder was given, for instance ``{"trees": 50, "seed": 1}``.
        search_budget: where a search names none, in the unit of the kind: nodes to inspect (Annoy's ``search_k``),
            candidates to keep (HNSW's ``efSearch``), or lists to scan (IVF's ``nprobe``).
        recall_at_100: share of the exact 100 nearest items found at that budget on held-out queries, 0 to 1.
    """

    kind: str
    metric: str
    parameters: Mapping[str, int]
    search_budget: int
    recall_at_100: float

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.search_budget < 1:
            raise ValueError(f"search_budget is {self.search_budget}, expected at least 1")
        if not 0.0 <= self.recall_at_100 <= 1.0:
            raise ValueError(f"recall_at_100 is {self.recall_at_100}, expected 0 to 1")


@dataclass(frozen=True)
class GateResult:
    """What a publish gate found.

    Attributes:
        figure: what was measured.
        threshold: what it was compared with.
        passed: whether it is good enough.
        message: a sentence with both, and what to do where it is not.
    """

    figure: float
    threshold: float
    passed: bool
    message: str

    def __post_init__(self) -> None:
        """Checks all: a gate that cannot be read must not count as passed."""
        if not (math.isfinite(self.figure) and math.isfinite(self.threshold)) or type(self.passed) is not bool:
            raise ValueError(f"gate with figure {self.figure!r}, threshold {self.threshold!r}, passed {self.passed!r}")


@dataclass(frozen=True)
class Manifest:
    """All that is known of a bundle without opening its files.

    Attributes:
        format_version: of the folder, `FORMAT_VERSION`.
        bundle_version: of this bundle; sorts by time.
        model_version: of the embedding space. Bundles of one model share query tower and schema.
        parent_version: the bundle that was live when this one was made, if any.
        dimension: length of every vector.
        item_count: rows of ``vectors.npy``.
        index: kind, parameters and measured recall of ``index.ann``.
        feature_schema: of the query tower, as of `retrieval.bundle.features.schema.FeatureSchema.to_json`; ``vocabularies.json`` holds
            the vocabularies of both towers.
        item_feature_schema: of the item tower, likewise.
        attributes: item attributes by name, each ``string``, ``int``, ``float`` or ``string_list``.
        files: size and hash of every other file, by its path in the bundle.
        metrics: on held-out data, for instance ``{"ndcg@10": 0.08}``.
        seed: of the training.
        git_commit: of the code that trained, empty where unknown.
        recipe: the resolved configuration of the training.
        forced_gates: publish gates that this bundle, or the one it was made from, failed and was promoted past.
        gates: results of the publish gates by name; empty where none were asked.
    """

    bundle_version: str
    model_version: str
    parent_version: str | None
    dimension: int
    item_count: int
    index: IndexSpec
    feature_schema: Mapping[str, Any]
    attributes: Mapping[str, str]
    files: Mapping[str, FileEntry]
    metrics: Mapping[str, float]
    seed: int
    git_commit: str
    recipe: Mapping[str, Any]
    item_feature_schema: Mapping[str, Any] = field(default_factory=dict)
    forced_gates: tuple[str, ...] = field(default=())
    gates: Mapping[str, GateResult] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Checks versions, ranges and paths.

        Raises:
            ValueError: a number is out of range or a path leads out of the bundle.
            InvalidVersion: a version is none.
        """
        for version in (self.bundle_version, self.model_version, self.parent_version):
            if version is not None:
                check_version(version)
        if self.dimension < 1 or self.item_count < 1:
            raise ValueError(f"dimension {self.dimension}, item_count {self.item_count}: both have to be at least 1")
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format version {self.format_version}, expected {FORMAT_VERSION}")
        for path in self.files:
            parts = PurePosixPath(path).parts
            if not parts or path.startswith("/") or ".." in parts or "\\" in path:
                raise ValueError(f"file path {path!r} leads out of the bundle")

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Names of the publish gates that keep this bundle from going live: failed, and not forced."""
        return tuple(n for n, result in self.gates.items() if not result.passed and n not in self.forced_gates)

    def to_json(self) -> str:
        """Returns the text of ``manifest.json``: readable, keys in a fixed order."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, version: str) -> Manifest:
        """Returns the manifest that `text` holds.

        Args:
            text: of ``manifest.json``.
            version: of the folder it was found in, which it has to name.

        Raises:
            BundleRefused: gate ``format_version`` where its format is not `FORMAT_VERSION`, ``manifest`` where it is
                damaged or of another bundle.
        """
        try:
            raw = json.loads(text)
            found = raw["format_version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BundleRefused(
                version, "manifest", f"{MANIFEST} is damaged ({error}); publish the bundle again"
            ) from error
        if type(found) is not int or found != FORMAT_VERSION:
            raise BundleRefused(version, "format_version", _explain_format(found))
        try:
            manifest = _parse(raw)
        except (ValueError, TypeError, KeyError, AttributeError, InvalidVersion) as error:
            raise BundleRefused(
                version, "manifest", f"{MANIFEST} is damaged ({error}); publish the bundle again"
            ) from error
        if manifest.bundle_version != version:
            raise BundleRefused(
                version, "manifest", f"{MANIFEST} is of bundle {manifest.bundle_version}: the folder was renamed"
            )
        return manifest


def _explain_format(found: Any) -> str:
    """Returns why a bundle of this format version is not read, and what to do."""
    if found == _SEVERAL_INTERESTS_FORMAT_VERSION:
        return (
            f"format version {found} is that of a bundle with several embeddings for each query (recipe key "
            "query_tower.interests), which this version cannot read: remove the key from the recipe, train and publish "
            "again with this version, or serve the bundle with the release that made it"
        )
    newer = isinstance(found, int) and found > FORMAT_VERSION
    advice = "newer than this program: update it" if newer else "unknown to this program"
    return f"format version {found!r} is {advice} (it reads {FORMAT_VERSION})"


def _parse(raw: dict[str, Any]) -> Manifest:
    raw = dict(raw)
    known = {f.name for f in dataclasses.fields(Manifest)}
    raw.setdefault("gates", {})  # bundles from before there were gates have none
    if raw.keys() != known:
        raise ValueError(f"keys {sorted(raw.keys() ^ known)} are missing or unknown")
    for name in ("dimension", "item_count", "seed"):
        if type(raw[name]) is not int:
            raise TypeError(f"{name} is {raw[name]!r}, expected an int")
    for name in ("bundle_version", "model_version", "git_commit"):
        if not isinstance(raw[name], str):
            raise TypeError(f"{name} is {raw[name]!r}, expected a string")
    raw["index"] = IndexSpec(**raw["index"])
    raw["files"] = {path: FileEntry(**entry) for path, entry in raw["files"].items()}
    raw["gates"] = {name: GateResult(**result) for name, result in raw["gates"].items()}
    raw["forced_gates"] = tuple(raw["forced_gates"])
    return Manifest(**raw)
