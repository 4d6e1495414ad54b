"""What a folder of vectors is made of: written before the first vector, and compared before more are added."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Annotated

from pydantic import Field, TypeAdapter

from retrieval.bundle.features.schema import text_encoder_specs
from retrieval.bundle.layout import ITEM_TOWER, VOCABULARIES
from retrieval.bundle.manifest import Manifest
from retrieval.version import DISTRIBUTION
from trainer.embedding.items_table import ItemFile, Slice, cut
from trainer.embedding.places import Found
from trainer.embedding.stored import parse
from trainer.errors import DataError

FORMAT_VERSION = 1
_PACKAGES = (DISTRIBUTION, "tensorflow", "keras", "ai-edge-litert", "numpy", "polars")
"""Packages that decide on the bytes of the vectors."""


@dataclass(frozen=True)
class Plan:
    """What is embedded, with what, and in which slices: equal plans give equal bytes.

    Attributes:
        bundle_version: Bundle whose item tower embeds.
        model: SHA-256 over the files and the schema of the item tower, and how the items table is read.
        dimension: Length of the vectors.
        packages: Versions of the packages that decide on the bytes, by name.
        items: Path or URL of the items table.
        slice_rows: Largest number of rows of a slice.
        files: Files of the table, in order of their names.
        notes: Sentences about cells that were read other than they are written.
    """

    bundle_version: str
    model: str
    dimension: int
    packages: dict[str, str]
    items: str
    slice_rows: Annotated[int, Field(ge=1)]
    files: tuple[ItemFile, ...]
    notes: tuple[str, ...]

    @property
    def row_count(self) -> int:
        """Number of rows of all files."""
        return sum(file.rows for file in self.files)

    def slices(self) -> Iterator[Slice]:
        """Yields all slices in order."""
        return cut(list(self.files), self.slice_rows)

    def to_json(self) -> bytes:
        """Returns the content of the file of the plan."""
        raw = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return (json.dumps(raw, indent=2, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def from_json(content: bytes, place: str) -> Plan:
        """Returns the plan that `to_json` wrote.

        Args:
            content: Content of the file.
            place: Path or URL of the file, for messages.

        Raises:
            DataError: It is no plan of this version.
        """
        advice = "remove the folder that it is in, and embed again"
        if (version := parse(_FORMAT, content, place, advice).format_version) != FORMAT_VERSION:
            raise DataError(f"{place}: format {version!r}, this program reads {FORMAT_VERSION}: update it")
        return parse(_PLAN, content, place, advice)


@dataclass(frozen=True)
class _Format:
    format_version: int


_FORMAT, _PLAN = TypeAdapter(_Format), TypeAdapter(Plan)


def tower_files(manifest: Manifest) -> list[str]:
    """Returns the paths in a bundle of the files that its item tower needs, sorted."""
    specs = text_encoder_specs(manifest.item_feature_schema)
    texts = [path for spec in specs for path in (spec.tokenizer_path, spec.encoder_path)]
    return sorted([ITEM_TOWER, VOCABULARIES, *texts])


def model_digest(manifest: Manifest) -> str:
    """Returns the SHA-256 in hex of everything of a bundle that decides on the vector of an item."""
    files = {name: manifest.files[name].sha256 for name in tower_files(manifest)}
    known = {"files": files, "schema": manifest.item_feature_schema, "items": manifest.recipe.get("items")}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def installed_packages() -> dict[str, str]:
    """Returns the versions of the packages that decide on the bytes of the vectors, by name."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def package_differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Returns a phrase for each package of another version, such as ``"keras was 3.1 and is 3.2"``."""
    return [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def model_differences(plan: Plan, manifest: Manifest) -> list[str]:
    """Returns why a bundle would give other vectors than those of a plan; empty if it gives the same."""
    if model_digest(manifest) == plan.model:
        return []
    return [f"they are of the item tower of {plan.bundle_version}, which is not that of {manifest.bundle_version}"]


def with_files_of_today(
    plan: Plan, found: Sequence[Found], digests: Callable[[Sequence[Found]], Mapping[int, str]]
) -> tuple[Plan, list[str]]:
    """Returns a plan with the stamps that its files have now, and a phrase for each file that is another one.

    Only files that were written anew with the same size are read.

    Args:
        plan: The plan.
        found: Files of the items table as they are now.
        digests: Function from files to their digests by position, see `items_table.digest_of`.
    """
    before, now = {file.name: file for file in plan.files}, {each.name: each for each in found}
    differing = [f"{name} is gone" for name in before.keys() - now.keys()]
    differing += [f"{name} is new" for name in now.keys() - before.keys()]
    touched = [now[name] for name in sorted(before.keys() & now.keys()) if now[name].stamp != before[name].stamp]
    same_size = [each for each in touched if each.size_bytes == before[each.name].size_bytes]
    of_today = digests(same_size)
    same = {each.name for number, each in enumerate(same_size) if of_today[number] == before[each.name].digest}
    differing += [f"{each.name} has another content" for each in touched if each.name not in same]
    files = tuple(replace(file, stamp=now[file.name].stamp if file.name in now else file.stamp) for file in plan.files)
    return replace(plan, files=files), sorted(differing)
