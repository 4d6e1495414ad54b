"""Converts the product catalogue of querqy/chorus (Icecat Open Content) into the tables that a recipe reads."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from retrieval.bundle.files import sha256_of
from trainer.data.icecat import categories, pairs, products
from trainer.data.icecat.products import Product
from trainer.errors import DataError
from trainer.progress import SILENT, Progress

FILES = ("1.json.zip", "2.json.zip", "3.json.zip", "4.json.zip")
"""File names of the catalogue."""
_CONVERSION = "6"
"""Version of the conversion; a change of the resulting tables raises it."""
PRODUCTS, PAIRS = "products.parquet", "pairs.parquet"


def prepare(folder: Path, cache: Path, seed: int = 0, progress: Progress = SILENT) -> Path:
    """Returns a folder with ``products.parquet`` and ``pairs.parquet``; the same files are converted once.

    Args:
        folder: Folder with the four ``N.json.zip`` of the catalogue.
        cache: Folder in which the result is kept.
        seed: Seed of the generated queries.
        progress: Progress reporter.

    Raises:
        DataError: A file is missing or is not such a catalogue, or the cache cannot be written.
    """
    paths = [folder / name for name in FILES]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise DataError(f"{folder}: no {' and '.join(absent)}; name the folder that holds the catalogue with --data")
    digest = hashlib.sha256(f"{_CONVERSION} {seed} {[sha256_of(path) for path in paths]}".encode()).hexdigest()[:16]
    target = cache / f"icecat-{digest}"
    if target.is_dir():
        return target
    with progress.working(f"data: making search pairs of the catalogue in {folder}"):
        _convert(paths, cache, target, seed)
    return target


def _convert(paths: Sequence[Path], cache: Path, target: Path, seed: int) -> None:
    """Writes both tables to the folder `target` in `cache`, atomically."""
    catalogue = [product for path in paths for product in products.read(path)]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".icecat-") as temporary:
            tables = Path(temporary) / "tables"
            tables.mkdir()
            category_of = categories.infer(catalogue)
            table = _products_table(catalogue, category_of)
            table.write_parquet(tables / PRODUCTS)
            rows = pairs.generate(catalogue, category_of, table["full_text"].to_list(), seed)
            pl.DataFrame(rows, orient="row", schema=pairs.COLUMNS).write_parquet(tables / PAIRS)
            # Another process may have been faster: its result is the same.
            if not target.is_dir():
                os.rename(tables, target)
    except OSError as error:
        raise DataError(f"cannot write to the cache {cache}: {error}") from error


def _products_table(catalogue: Sequence[Product], category_of: Mapping[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [product.id for product in catalogue],
            "title": [product.title for product in catalogue],
            "text": [product.text for product in catalogue],
            "full_text": [product.full_text for product in catalogue],
            "brand": [product.brand or None for product in catalogue],
            "category": [category_of.get(product.id) for product in catalogue],
        }
    )
