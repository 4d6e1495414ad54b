"""The manifest of a bundle: versions, sizes, checksums, and how it was made."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from retrieval.bundle.errors import BundleRefused, InvalidVersion
from retrieval.bundle.file_paths import is_file_path
from retrieval.bundle.layout import MANIFEST
from retrieval.bundle.shard import Shard, check_shards, parse_shards

FORMAT_VERSION = 1
"""Version of the format; it rises by one with every change that an older reader would misread."""

SHARDED_FORMAT_VERSION = 3
"""Format version of bundles whose catalogue is in shards, which an older ANN service must refuse."""

_SEVERAL_INTERESTS_FORMAT_VERSION = 2
"""Format version of bundles with several embeddings for each query, which earlier releases wrote."""

_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def format_version_of(shards: Sequence[Shard]) -> int:
    """Returns the format version of a bundle with these shards."""
    return SHARDED_FORMAT_VERSION if shards else FORMAT_VERSION


def check_version(version: str) -> str:
    """Checks the form of a version, and returns it unchanged. Call it before a version becomes part of a path.

    Raises:
        InvalidVersion: `version` does not look like 20261124T031645Z-3f9a1c.
    """
    if not _VERSION.fullmatch(version):
        raise InvalidVersion(f"{version[:80]!r} is not a version: expected the form 20261124T031645Z-3f9a1c")
    return version


def new_version(after: str | None = None) -> str:
    """Returns a version made from the current time. It sorts after `after`, even if the clock was set back."""
    now = datetime.now(UTC).replace(microsecond=0)
    if after is not None:
        last = datetime.strptime(check_version(after).split("-")[0], _TIME).replace(tzinfo=UTC)
        now = max(now, last + timedelta(seconds=1))
    return f"{now.strftime(_TIME)}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of a bundle.

    Attributes:
        size_bytes: Size of the file.
        sha256: SHA-256 of the file in hex.
    """

    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Checks size and hash.

        Raises:
            ValueError: the size is no integer, negative or at least 2^63, or the hash is no SHA-256 in hex.
        """
        if type(self.size_bytes) is not int or not 0 <= self.size_bytes < 2**63 or not _SHA256.fullmatch(self.sha256):
            raise ValueError(
                f"size_bytes {self.size_bytes}, sha256 {self.sha256[:80]!r}: expected an int >= 0 and 64 hex digits"
            )


@dataclass(frozen=True)
class IndexSpec:
    """How the index was built and how it is searched.

    Attributes:
        kind: Kind of index, such as ``"annoy"`` or ``"faiss_ivf"``; see `retrieval.index.registry`. The file has the
            same name for every kind.
        metric: Always ``"angular"``, which orders vectors of unit length as the dot product does.
        parameters: Parameters of the build, for instance ``{"trees": 50, "seed": 1}``.
        search_budget: Default budget of a search, in the unit of the kind: nodes to inspect (Annoy's ``search_k``),
            candidates to keep (HNSW's ``efSearch``), or lists to scan (IVF's ``nprobe``).
        recall_at_100: Share of the exact 100 nearest items that the index returns at that budget, 0 to 1, as a mean
            over held-out queries.
    """

    kind: str
    metric: str
    parameters: Mapping[str, int]
    search_budget: int
    recall_at_100: float

    def __post_init__(self) -> None:
        """Checks search budget and recall.

        Raises:
            ValueError: the search budget is below 1, or the recall is not 0 to 1.
        """
        if self.search_budget < 1:
            raise ValueError(f"search_budget is {self.search_budget}, expected at least 1")
        if not 0.0 <= self.recall_at_100 <= 1.0:
            raise ValueError(f"recall_at_100 is {self.recall_at_100}, expected 0 to 1")


@dataclass(frozen=True)
class GateResult:
    """Result of a publish gate.

    Attributes:
        figure: Measured value.
        threshold: Value that it was compared with.
        passed: Whether the bundle may go live.
        message: Sentence with figure and threshold, and what to do if the gate failed.
    """

    figure: float
    threshold: float
    passed: bool
    message: str

    def __post_init__(self) -> None:
        """Checks every field, so that a damaged result never counts as passed.

        Raises:
            ValueError: figure or threshold is not finite, the verdict is not a bool, or the message is not a text.
        """
        if not (math.isfinite(self.figure) and math.isfinite(self.threshold)) or type(self.passed) is not bool:
            raise ValueError(f"gate with figure {self.figure!r}, threshold {self.threshold!r}, passed {self.passed!r}")
        if not isinstance(self.message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"gate with message {self.message!r}, expected a text")


@dataclass(frozen=True)
class Manifest:
    """Description of a bundle, which can be read without opening its other files.

    Attributes:
        format_version: Version of the format: `SHARDED_FORMAT_VERSION` if there are shards, otherwise `FORMAT_VERSION`.
        bundle_version: Version of the bundle; versions sort by time.
        model_version: Version of the embedding space. Bundles of one model share the query tower and its schema.
        parent_version: Version of the bundle that was live when this one was made; None if there was none.
        dimension: Length of every embedding.
        item_count: Number of items, which is the number of rows of ``vectors.npy``.
        index: Kind, parameters, search budget and measured recall of the index.
        feature_schema: Feature schema of the query tower, as `retrieval.bundle.features.schema.FeatureSchema.to_json`
            returns it. ``vocabularies.json`` has the vocabularies of both towers.
        item_feature_schema: Feature schema of the item tower, in the same form.
        attributes: Type of each item attribute by name: ``string``, ``int``, ``float`` or ``string_list``.
        files: Size and hash of every other file, by its path in the bundle.
        metrics: Metrics on held-out data, for instance ``{"ndcg@10": 0.08}``.
        seed: Random seed of the training.
        git_commit: Commit of the code that trained; empty if unknown.
        recipe: Resolved configuration of the training.
        forced_gates: Names of the publish gates that failed when this bundle, or the one that it was made from, was
            promoted with force.
        gates: Results of the publish gates by name; empty if none were run.
        shards: Shards of the catalogue, in the order of the items. Empty: the catalogue is in one piece.
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
    shards: tuple[Shard, ...] = field(default=())

    def __post_init__(self) -> None:
        """Checks versions, ranges and paths.

        Raises:
            ValueError: a number is out of range, a metric not finite, or a path leads out of the bundle.
            InvalidVersion: a version is not of the right form.
        """
        for version in (self.bundle_version, self.model_version, self.parent_version):
            if version is not None:
                check_version(version)
        if self.dimension < 1 or self.item_count < 1:
            raise ValueError(f"dimension {self.dimension}, item_count {self.item_count}: both have to be at least 1")
        if self.format_version != format_version_of(self.shards):
            raise ValueError(f"format version {self.format_version}, expected {format_version_of(self.shards)}")
        if self.shards:
            check_shards(self.shards, self.item_count)
        for path in self.files:
            if not is_file_path(path):
                raise ValueError(f"file path {path[:80]!r} leads out of the bundle, or no disk can have it")
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"metric {name[:80]!r} is {value}, expected a finite number")

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Names of the publish gates that keep this bundle from going live: failed, and not forced."""
        return tuple(n for n, result in self.gates.items() if not result.passed and n not in self.forced_gates)

    def to_json(self) -> str:
        """Returns the text of ``manifest.json``: indented, with sorted keys."""
        raw = dataclasses.asdict(self)
        if not self.shards:
            del raw["shards"]  # older programs know no such key
        return json.dumps(raw, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, version: str) -> Manifest:
        """Returns the manifest in `text`.

        Args:
            text: content of ``manifest.json``.
            version: name of the bundle's folder, which the manifest must name as its version.

        Raises:
            BundleRefused: gate ``format_version`` if the format version is not one of the two; gate ``manifest`` if the
                text is damaged or the manifest of another bundle.
        """
        try:
            raw = json.loads(text)
            format_version = raw["format_version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BundleRefused(
                version, "manifest", f"{MANIFEST} is damaged ({error}); publish the bundle again"
            ) from error
        if type(format_version) is not int or format_version not in (FORMAT_VERSION, SHARDED_FORMAT_VERSION):
            raise BundleRefused(version, "format_version", _explain_format(format_version))
        try:
            manifest = _parse(raw)
            manifest.to_json().encode()  # raises for half a surrogate pair, and for values that are nested too deep
        except (
            ArithmeticError,
            AttributeError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
            InvalidVersion,
        ) as error:
            raise BundleRefused(
                version, "manifest", f"{MANIFEST} is damaged ({error}); publish the bundle again"
            ) from error
        if manifest.bundle_version != version:
            raise BundleRefused(
                version, "manifest", f"{MANIFEST} is of bundle {manifest.bundle_version}: the folder was renamed"
            )
        return manifest


def _explain_format(format_version: Any) -> str:
    """Returns why a bundle of this format version cannot be read, and what to do."""
    if format_version == _SEVERAL_INTERESTS_FORMAT_VERSION:
        return (
            f"format version {format_version} is that of a bundle with several embeddings for each query (recipe key "
            "query_tower.interests), which this version cannot read: remove the key from the recipe, train and publish "
            "again with this version, or serve the bundle with the release that made it"
        )
    newer = isinstance(format_version, int) and format_version > SHARDED_FORMAT_VERSION
    advice = "newer than this program: update it" if newer else "unknown to this program"
    return f"format version {format_version!r} is {advice} (it reads {FORMAT_VERSION} and {SHARDED_FORMAT_VERSION})"


def _parse(raw: dict[str, Any]) -> Manifest:
    raw = dict(raw)
    raw.setdefault("gates", {})  # bundles that are older than the publish gates have no such key
    raw["shards"] = parse_shards(raw.get("shards", []))
    if raw.keys() != (known := {f.name for f in dataclasses.fields(Manifest)}):
        raise ValueError(f"keys {sorted(raw.keys() ^ known)} are missing or unknown")
    for name in ("dimension", "item_count", "seed"):
        if type(raw[name]) is not int:
            raise TypeError(f"{name} is {raw[name]!r}, expected an int")
    for name in ("bundle_version", "model_version", "git_commit"):
        if not isinstance(raw[name], str):
            raise TypeError(f"{name} is {raw[name]!r}, expected a string")
    for name in ("feature_schema", "item_feature_schema", "attributes", "metrics", "recipe"):
        if not isinstance(raw[name], dict):
            raise TypeError(f"{name} is {str(raw[name])[:80]}, expected an object")
    raw["index"] = IndexSpec(**raw["index"])
    raw["files"] = {path: FileEntry(**entry) for path, entry in raw["files"].items()}
    raw["gates"] = {name: GateResult(**result) for name, result in raw["gates"].items()}
    raw["forced_gates"] = tuple(raw["forced_gates"])
    return Manifest(**raw)
