"""Reads the products of the catalogue."""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError


@dataclass(frozen=True)
class Product:
    """One product.

    Attributes:
        id: Id in the catalogue.
        brand: Name of the maker.
        name: Name that the maker gives the product.
        title: Brand, name, category and some properties, as Icecat writes them.
        description: Short description, or empty.
        properties: Attributes by name, such as ``product_colour``: text, numbers or True.
    """

    id: str
    brand: str
    name: str
    title: str
    description: str
    properties: Mapping[str, str | float | bool]

    @property
    def text(self) -> str:
        """Title and description, which text encoders read."""
        return f"{self.title}. {self.description}" if self.description not in self.title else self.title

    @property
    def full_text(self) -> str:
        """Title, description, the values of text properties, and the names of properties that are True."""
        words = [value for value in self.properties.values() if isinstance(value, str)]
        names = [name.replace("_", " ") for name, value in self.properties.items() if value is True]
        return " ".join([self.text, *words, *names]).strip()


def read(path: Path) -> list[Product]:
    """Returns the products of one file of the catalogue.

    Raises:
        DataError: The file cannot be read or is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            raw = json.loads(archive.read(archive.namelist()[0]))
        return [_product(entry) for entry in raw]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: not a catalogue of products: {error!r}; fetch it again") from error


def _product(entry: Mapping[str, Any]) -> Product:
    properties = {
        re.sub(r"_+", "_", key[7:]).strip("_"): value
        for key, value in entry.items()
        if key.startswith(("attr_t_", "attr_n_", "attr_b_")) and value is not False
    }
    texts = (_clean(entry.get(key) or "") for key in ("supplier", "name", "title", "short_description"))
    return Product(str(entry["id"]), *texts, properties)


def _clean(text: str) -> str:
    """Returns a text without markup, HTML entities and repeated blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(text)).split())
