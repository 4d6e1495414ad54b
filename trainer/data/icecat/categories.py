"""What kind of thing a product is, learned from its title.

Icecat writes a title as ``BRAND NAME category properties``, with the category in small letters, but leaves it out where
the name holds it. So: categories are the phrases that stand behind many names; a product without one is of the category
that its name ends in, or else of the one that its nearest neighbours by words and properties agree on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from trainer.data.icecat.catalogue import Product

_FEWEST = 4
"""Products that a phrase has to stand behind to be a category."""
_NEIGHBOURS, _AGREE = 7, 5
_LONGEST = 4
"""Words of a phrase."""
_NO_KIND = frozenset({"usb", "vga", "dvi", "hdmi", "not categorized", "component"})
"""Phrases that stand there without saying what a product is."""
_PLAIN = re.compile(r"[a-z][a-z/&-]+")
_UPPER = frozenset(
    {"USB", "DVD", "KVM", "VGA", "DVI", "HDMI", "UPS", "TV", "LCD", "PC", "NAS", "Notebook", "Smartphone"}
)
"""Words of categories that are not written small."""


def name(products: Sequence[Product]) -> dict[str, str]:
    """Returns the category of each product that one is found for, by its id, in small letters."""
    written = {p.id: phrase for p in products if (phrase := _phrase(p))}
    counts = Counter(written.values())
    # "keyboard USB" is a keyboard with a property.
    known = {
        phrase: _shortest(phrase, counts)
        for phrase, count in counts.items()
        if count >= _FEWEST and phrase not in _NO_KIND
    }
    named = {key: known[phrase] for key, phrase in written.items() if phrase in known}
    categories = sorted(set(known.values()), key=lambda phrase: -len(phrase))
    for product in products:
        if product.id not in named and (found := _in_name(product.name, categories)):
            named[product.id] = found
    return named | _of_neighbours(products, named)


def _phrase(product: Product) -> str:
    at = product.title.find(product.name)
    if at < 0 or not product.name:
        return ""
    words: list[str] = []
    for word in product.title[at + len(product.name) :].split():
        bare = word.strip(",")
        if not (_PLAIN.fullmatch(bare) or bare in _UPPER) or len(words) == _LONGEST:
            break
        words.append(bare)
        if word.endswith(","):
            break
    return " ".join(words).lower()


def _shortest(phrase: str, counts: Mapping[str, int]) -> str:
    words = phrase.split()
    for length in range(1, len(words)):
        start = " ".join(words[:length])
        if counts.get(start, 0) > counts[phrase]:
            return start
    return phrase


def _in_name(name_: str, categories: Sequence[str]) -> str | None:
    """Returns the longest category that a name holds as whole words."""
    text = f" {' '.join(re.findall(r'[a-z0-9/&-]+', name_.lower()))} "
    return next((category for category in categories if f" {category} " in text), None)


def _of_neighbours(products: Sequence[Product], named: Mapping[str, str]) -> dict[str, str]:
    """Returns categories for the others, where most of their nearest neighbours are of one."""
    vectors = _tf_idf([_features(product) for product in products])
    labelled = [row for row, product in enumerate(products) if product.id in named]
    others = [row for row, product in enumerate(products) if product.id not in named]
    if not labelled or not others:
        return {}
    targets, found = vectors[labelled].T.tocsr(), {}
    for start in range(0, len(others), 500):
        rows = others[start : start + 500]
        near = (vectors[rows] @ targets).toarray()
        for row, scores in zip(rows, near, strict=True):
            best = np.argpartition(-scores, min(_NEIGHBOURS, len(scores) - 1))[:_NEIGHBOURS]
            category, votes = Counter(named[products[labelled[at]].id] for at in best).most_common(1)[0]
            if votes >= _AGREE:
                found[products[row].id] = category
    return found


def _features(product: Product) -> list[str]:
    words = re.findall(r"[a-z]{2,}", f"{product.title} {product.description}".lower())
    return [*set(words), *(f"={name_}" for name_ in product.properties)]


def _tf_idf(documents: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """Returns [n, words] of unit length."""
    column: dict[str, int] = {}
    indices = [[column.setdefault(word, len(column)) for word in words] for words in documents]
    lengths = [len(row) for row in indices]
    flat = np.array([i for row in indices for i in row], dtype=np.int64)
    idf = np.log(len(documents) / np.maximum(1, np.bincount(flat, minlength=len(column))))
    rows = np.repeat(np.arange(len(documents)), lengths)
    norms = np.sqrt(np.bincount(rows, weights=idf[flat] ** 2, minlength=len(documents)))
    weights = idf[flat] / np.maximum(norms, 1e-9)[rows]
    return sparse.csr_matrix((weights, (rows, flat)), shape=(len(documents), len(column)))
