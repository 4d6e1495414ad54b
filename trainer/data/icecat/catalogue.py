"""The product catalogue of querqy/chorus (Icecat Open Content) as the tables that a recipe reads."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from retrieval.bundle.files import sha256_of
from trainer.data.icecat import categories, pairs
from trainer.errors import DataError
from trainer.progress import SILENT, Progress

FILES = ("1.json.zip", "2.json.zip", "3.json.zip", "4.json.zip")
"""What the folder of the catalogue holds."""
_MADE_BY = "6"
"""Raised with every change of what the tables hold."""
PRODUCTS, PAIRS = "products.parquet", "pairs.parquet"


@dataclass(frozen=True)
class Product:
    """One product.

    Attributes:
        id: of the catalogue.
        brand: who makes it.
        name: what the maker calls it.
        title: brand, name, category and some properties, as Icecat writes them.
        description: a few words more, or empty.
        properties: its attributes by name, such as ``product_colour``: text, numbers or True.
    """

    id: str
    brand: str
    name: str
    title: str
    description: str
    properties: Mapping[str, str | float | bool]


def prepare(folder: Path, cache: Path, seed: int = 0, progress: Progress = SILENT) -> Path:
    """Returns a folder with ``products.parquet`` and ``pairs.parquet``; made once for the same files.

    Args:
        folder: with the four ``N.json.zip`` of the catalogue.
        cache: folder to make it in.
        seed: of the pairs.
        progress: what it reports to.

    Raises:
        DataError: a file is missing or is no such catalogue, or the cache cannot be written.
    """
    paths = [folder / name for name in FILES]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise DataError(f"{folder}: no {' and '.join(absent)}; name the folder that holds the catalogue with --data")
    digest = hashlib.sha256(f"{_MADE_BY} {seed} {[sha256_of(path) for path in paths]}".encode()).hexdigest()[:16]
    target = cache / f"icecat-{digest}"
    if target.is_dir():
        return target
    with progress.working(f"data: making search pairs of the catalogue in {folder}"):
        _make(paths, cache, target, seed)
    return target


def _make(paths: Sequence[Path], cache: Path, target: Path, seed: int) -> None:
    """Writes both tables to the folder `target` in `cache`, whole or not at all."""
    products = [product for path in paths for product in _read(path)]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".icecat-") as temporary:
            made = Path(temporary) / "tables"
            made.mkdir()
            named = categories.name(products)
            table = _table(products, named)
            table.write_parquet(made / PRODUCTS)
            rows = pairs.make(products, named, table["full_text"].to_list(), seed)
            pl.DataFrame(rows, orient="row", schema=pairs.COLUMNS).write_parquet(made / PAIRS)
            # Another process may have been faster: its result is the same.
            if not target.is_dir():
                os.rename(made, target)
    except OSError as error:
        raise DataError(f"cannot write to the cache {cache}: {error}") from error


def _read(path: Path) -> list[Product]:
    try:
        with zipfile.ZipFile(path) as archive:
            raw = json.loads(archive.read(archive.namelist()[0]))
        return [_product(entry) for entry in raw]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: no catalogue of products: {error!r}; fetch it again") from error


def _product(entry: Mapping[str, Any]) -> Product:
    properties = {
        re.sub(r"_+", "_", key[7:]).strip("_"): value
        for key, value in entry.items()
        if key.startswith(("attr_t_", "attr_n_", "attr_b_")) and value is not False
    }
    texts = (clean(entry.get(key) or "") for key in ("supplier", "name", "title", "short_description"))
    return Product(str(entry["id"]), *texts, properties)


def clean(text: str) -> str:
    """Returns a text without markup, entities and double blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(text)).split())


def _table(products: list[Product], named: Mapping[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [p.id for p in products],
            "title": [p.title for p in products],
            "text": [text_of(p) for p in products],
            "full_text": [f"{text_of(p)} {_words_of(p)}".strip() for p in products],
            "brand": [p.brand or None for p in products],
            "category": [named.get(p.id) for p in products],
        }
    )


def text_of(product: Product) -> str:
    """Returns what an encoder reads of a product: title and description."""
    described = product.description if product.description not in product.title else ""
    return f"{product.title}. {described}" if described else product.title


def _words_of(product: Product) -> str:
    """Returns its properties as words: texts as they are, and the names of those that it has or has not."""
    words = [value for value in product.properties.values() if isinstance(value, str)]
    return " ".join([*words, *(name.replace("_", " ") for name, v in product.properties.items() if v is True)])
