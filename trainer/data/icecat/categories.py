"""Infers the category of products from their titles.

Icecat writes a title as ``BRAND NAME category properties``, with the category in small letters, but omits the category
if the name contains it. So categories are the phrases that follow many names; a product without such a phrase gets the
category that its name contains, or else the one that most of its nearest neighbours by words and properties have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from trainer.data.icecat.products import Product

_MIN_PRODUCTS = 4
"""Smallest number of products of a category."""
_NEIGHBOURS, _MIN_VOTES = 7, 5
"""Number of nearest neighbours, and how many of them have to have the same category."""
_MAX_WORDS = 4
"""Largest number of words of a phrase."""
_NOT_CATEGORIES = frozenset({"usb", "vga", "dvi", "hdmi", "not categorized", "component"})
"""Phrases that follow names and are not categories."""
_LOWER = re.compile(r"[a-z][a-z/&-]+")
_UPPER = frozenset(
    {"USB", "DVD", "KVM", "VGA", "DVI", "HDMI", "UPS", "TV", "LCD", "PC", "NAS", "Notebook", "Smartphone"}
)
"""Words of categories that are written with capital letters."""


def infer(products: Sequence[Product]) -> dict[str, str]:
    """Returns categories in small letters by product id; products whose category stays unknown are absent."""
    phrases = {p.id: phrase for p in products if (phrase := _phrase(p))}
    counts = Counter(phrases.values())
    # "keyboard USB" becomes "keyboard": the rest is a property.
    known = {
        phrase: _shortest(phrase, counts)
        for phrase, count in counts.items()
        if count >= _MIN_PRODUCTS and phrase not in _NOT_CATEGORIES
    }
    category_of = {key: known[phrase] for key, phrase in phrases.items() if phrase in known}
    categories = sorted(set(known.values()), key=lambda phrase: -len(phrase))
    for product in products:
        if product.id not in category_of and (category := _in_name(product.name, categories)):
            category_of[product.id] = category
    return category_of | _of_neighbours(products, category_of)


def _phrase(product: Product) -> str:
    """Returns the words of a title that follow the name, up to the first that cannot be part of a category."""
    start = product.title.find(product.name)
    if start < 0 or not product.name:
        return ""
    words: list[str] = []
    for word in product.title[start + len(product.name) :].split():
        bare = word.strip(",")
        if not (_LOWER.fullmatch(bare) or bare in _UPPER) or len(words) == _MAX_WORDS:
            break
        words.append(bare)
        if word.endswith(","):
            break
    return " ".join(words).lower()


def _shortest(phrase: str, counts: Mapping[str, int]) -> str:
    """Returns the shortest beginning of a phrase that is more frequent than the phrase, or the phrase itself."""
    words = phrase.split()
    for length in range(1, len(words)):
        start = " ".join(words[:length])
        if counts.get(start, 0) > counts[phrase]:
            return start
    return phrase


def _in_name(name: str, categories: Sequence[str]) -> str | None:
    """Returns the first of `categories` that a name contains as whole words."""
    text = f" {' '.join(re.findall(r'[a-z0-9/&-]+', name.lower()))} "
    return next((category for category in categories if f" {category} " in text), None)


def _of_neighbours(products: Sequence[Product], category_of: Mapping[str, str]) -> dict[str, str]:
    """Returns categories, by id, of products that have none yet and whose nearest neighbours mostly agree on one."""
    vectors = _tf_idf([_features(product) for product in products])
    labelled = [row for row, product in enumerate(products) if product.id in category_of]
    others = [row for row, product in enumerate(products) if product.id not in category_of]
    if not labelled or not others:
        return {}
    targets, inferred = vectors[labelled].T.tocsr(), {}
    for start in range(0, len(others), 500):
        rows = others[start : start + 500]
        cosines = (vectors[rows] @ targets).toarray()  # [batch, labelled]
        for row, scores in zip(rows, cosines, strict=True):
            best = np.argpartition(-scores, min(_NEIGHBOURS, len(scores) - 1))[:_NEIGHBOURS]
            category, votes = Counter(category_of[products[labelled[i]].id] for i in best).most_common(1)[0]
            if votes >= _MIN_VOTES:
                inferred[products[row].id] = category
    return inferred


def _features(product: Product) -> list[str]:
    words = re.findall(r"[a-z]{2,}", f"{product.title} {product.description}".lower())
    return [*set(words), *(f"={name}" for name in product.properties)]


def _tf_idf(documents: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """Returns TF-IDF vectors: [document_count, word_count] float64, unit length."""
    column: dict[str, int] = {}
    indices = [[column.setdefault(word, len(column)) for word in words] for words in documents]
    lengths = [len(row) for row in indices]
    flat = np.array([i for row in indices for i in row], dtype=np.int64)
    idf = np.log(len(documents) / np.maximum(1, np.bincount(flat, minlength=len(column))))
    rows = np.repeat(np.arange(len(documents)), lengths)
    norms = np.sqrt(np.bincount(rows, weights=idf[flat] ** 2, minlength=len(documents)))
    weights = idf[flat] / np.maximum(norms, 1e-9)[rows]
    return sparse.csr_matrix((weights, (rows, flat)), shape=(len(documents), len(column)))
