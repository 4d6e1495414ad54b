"""Files that programs read: manifests, the store and recipes."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrieval.bundle.errors import BundleError, BundleRefused
from retrieval.bundle.layout import BUNDLES, LIVE, MANIFEST
from retrieval.bundle.manifest import Manifest
from retrieval.store.folder_store import FolderStore
from tests.fuzz.inputs import Choices, Target, edited_bytes, edited_value
from tests.golden.golden import FOLDER
from trainer.errors import RecipeError
from trainer.recipe import loading
from trainer.recipe.recipe import KEYS

_GOLDEN = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("v1-*/manifest.json"))]
_RECIPES = [path.read_text(encoding="utf-8") for path in sorted(Path(loading.__file__).parent.glob("shipped/*.toml"))]
_HOSTILE_TOML = (b"a = " + b"[" * 9000, b"seed = " + b"9" * 5000, b"a." * 9000 + b"b = 1")
_WORDS = (
    "string",
    "int",
    "float",
    "categorical",
    "annoy",
    "time",
    "title",
    "year",
    "../x",
    "a\0b",
    "1",
    "-1",
    "nan",
    "a",
)


def file_targets(folder: Path) -> list[Target]:
    """Returns the targets of manifests, the store and recipes; they write into an empty folder."""
    manifests = [pickle.dumps(raw) for raw in _GOLDEN]
    manifest_bytes = [json.dumps(raw).encode() for raw in _GOLDEN]
    recipes = [pickle.dumps(tomllib.loads(text)) for text in _RECIPES]
    recipe_bytes = [text.encode() for text in _RECIPES]

    def make_recipe(choices: Choices) -> bytes:
        return choices.pick(_HOSTILE_TOML) if choices.rarely(50) else edited_bytes(choices, recipe_bytes)

    return [
        Target("manifest values", lambda c: json.dumps(edited_value(c, manifests, _WORDS)), _check_manifest),
        Target(
            "manifest bytes",
            lambda c: edited_bytes(c, manifest_bytes),
            lambda content: _check_manifest(content.decode("utf-8", "replace")),
        ),
        Target("store", _make_edits, lambda edits: _check_store(folder / "store", edits)),
        Target("recipe values", lambda c: edited_value(c, recipes, (*KEYS, *_WORDS)), _check_recipe),
        Target("recipe bytes", make_recipe, lambda content: _check_recipe_file(folder / "recipe.toml", content)),
    ]


def _check_manifest(text: str) -> None:
    """Reads a manifest as that of the bundle that its text names, if it names one."""
    version = next((raw["bundle_version"] for raw in _GOLDEN if raw["bundle_version"] in text), _VERSIONS[0])
    with suppress(BundleRefused):
        manifest = Manifest.from_json(text, version)
        assert all(isinstance(result.message, str) for result in manifest.gates.values())
        for mapping in (manifest.attributes, manifest.recipe, manifest.feature_schema, manifest.item_feature_schema):
            assert isinstance(mapping, dict)
        manifest.to_json().encode()
        assert Manifest.from_json(manifest.to_json(), version).to_json() == manifest.to_json()


# The store


_VERSIONS = ("20261129T094542Z-985606", "20261129T094649Z-06a45c", "20261129T094724Z-20e9d4")
_NOT_OURS = ("20261129T094542Z-98560", "..", ".staging-20261129T094542Z-985606", "notes.txt")
_FILES = {"vectors.npy": b"vectors", "lexical/index.json": b"{}"}
_PATHS = (*_FILES, MANIFEST)


def _manifest_of(version: str) -> dict[str, Any]:
    """Returns the manifest of a bundle of two small files, with a failed publish gate."""
    files = {
        name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in _FILES.items()
    }
    gate = {"figure": 0.1, "threshold": 0.2, "passed": version != _VERSIONS[0], "message": "0.1, expected 0.2"}
    own = {"bundle_version": version, "files": files, "gates": {"recall": gate}, "forced_gates": [], "recipe": {}}
    return {**_GOLDEN[0], **own, "feature_schema": {}, "item_feature_schema": {}, "metrics": {"a": 0.5}}


_MANIFESTS = [pickle.dumps(_manifest_of(version)) for version in _VERSIONS[:2]]
_POINTERS = [f"{version}\n{_VERSIONS[0]}\n".encode() for version in _VERSIONS]
_FILE_EDITS = ("write", "delete", "folder", "link", "loop")


def _make_edits(choices: Choices) -> list[tuple[Any, ...]]:
    """Returns up to four edits of a store, each a kind and its arguments; see `_edit_store`."""
    edits: list[tuple[Any, ...]] = []
    for _ in range(choices.below(5)):
        match choices.below(5):
            case 0:
                edits.append(("live", edited_bytes(choices, _POINTERS)))
            case 1:
                edits.append(("name", choices.pick(_NOT_OURS)))
            case 2:
                content = edited_bytes(choices, list(_FILES.values()))
                edits.append((choices.pick(_FILE_EDITS), choices.pick(_VERSIONS[:2]), choices.pick(_PATHS), content))
            case _:
                words = (*_WORDS, *_VERSIONS)
                edits.append(("manifest", choices.pick(_VERSIONS[:2]), edited_value(choices, _MANIFESTS, words)))
    return edits


def _check_store(root: Path, edits: Sequence[Any]) -> None:
    """Makes a store of two bundles, edits it, and runs every operation of the store."""
    shutil.rmtree(root, ignore_errors=True)
    for version in _VERSIONS[:2]:
        for name, content in (*_FILES.items(), (MANIFEST, json.dumps(_manifest_of(version)).encode())):
            path = root / BUNDLES / version / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (root / LIVE).write_text(f"{_VERSIONS[1]}\n{_VERSIONS[0]}\n")
    for kind, *arguments in edits:
        _edit_store(root, kind, *arguments)
    store = FolderStore(root, lock_timeout_s=1.0)
    known = (*_VERSIONS, _NOT_OURS[0])
    _allowed(store.versions)
    for version in known:
        _allowed(lambda version=version: store.manifest(version))
        _allowed(lambda version=version: store.verify(version, ["vectors.npy"]))
    for change in (
        *(lambda v=v, force=force: store.promote(v, force=force) for v in known for force in (False, True)),
        store.roll_back,
        lambda: store.prune(1),
    ):
        before = (root / LIVE).read_bytes()
        if not _allowed(change):
            assert (root / LIVE).read_bytes() == before, "a change that failed moved LIVE"
    _allowed(store.new_version)
    pointer = store.live() if _allowed(store.live) else None
    if pointer is not None and (root / LIVE).read_bytes() != before:
        store.verify(pointer.version)


def _edit_store(root: Path, kind: str, *arguments: Any) -> None:
    match kind, arguments:
        case "live", (content,):
            (root / LIVE).write_bytes(content)
        case "name", (name,):
            (root / BUNDLES / name).mkdir(exist_ok=True)
        case "manifest", (version, value):
            path = root / BUNDLES / version / MANIFEST
            if path.is_file():
                path.write_text(json.dumps(value))
        case _, (version, name, content):
            path = root / BUNDLES / version / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            if path.exists():
                return
            if kind == "write":
                path.write_bytes(content)
            elif kind == "folder":
                path.mkdir()
            elif kind in ("link", "loop"):
                path.symlink_to(path.name if kind == "loop" else root / "nothing")


def _allowed(operation: Callable[[], Any]) -> bool:
    """Runs an operation of the store, and returns whether it succeeded. Errors other than `BundleError` are raised."""
    try:
        operation()
    except BundleError:
        return False
    return True


# Recipes


def _check_recipe(raw: Any) -> None:
    with suppress(RecipeError):
        recipe = loading.parse(raw, "fuzzed")
        assert loading.parse(recipe.to_json(), "fuzzed") == recipe
    with suppress(RecipeError):
        if isinstance(raw, dict):
            loading.parse_stored(raw, "fuzzed")


def _check_recipe_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with suppress(RecipeError):
        loading.load(str(path))
