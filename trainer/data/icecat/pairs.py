"""Generates search queries from a catalogue, each paired with relevant products.

The queries are generated and not logged, so nothing of the graded queries leaks in. There are three groups:

- queries for a group of products (a category, a brand), paired with the products of the group that BM25 ranks highest,
  and a random sample of the others;
- queries for one product (its name, words of its title), paired with it, and at a lower weight with products whose BM25
  score is nearly as high;
- words that several titles share, paired with the products that BM25 ranks highest.

BM25 reads the full text of the products. This is weak supervision (Dehghani et al. 2017, "Neural Ranking Models with
Weak Supervision").
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.index.lexical.bm25 import Bm25
from trainer.data.icecat.products import Product

COLUMNS = ("search", "product", "query", "kind", "weight", "part")
_HIGHEST, _SAMPLED = 20, 10
"""Largest number of products that a query for a group is paired with: by BM25 score, and drawn at random."""
_SIMILAR, _SIMILAR_SCORE, _SIMILAR_WEIGHT = 4, 0.9, 0.4
"""Further products of a query for one product: largest number, smallest ratio to its score, and weight."""
_WEIGHTS = {"category": 4.0, "brand": 2.0, "brand and category": 2.0, "property and category": 2.0,
            "words": 2.0}  # fmt: skip
"""Weights of pairs by kind of query, 1 for other kinds: people search for categories more than for titles."""
_MIN_TITLES, _WORD_PRODUCTS = 3, 15
"""Smallest number of titles that contain a word, or two adjacent words, that are a query; its number of products."""
_PROPERTIES = ("type", "connectivity_technology", "product_colour", "form_factor", "material", "printing_colours",
           "device_interface", "operating_system_installed", "processor_family", "connector_1")  # fmt: skip
"""Properties whose values people write before a category."""
_STOP = frozenset({"for", "with", "and", "the", "of", "to", "in", "a", "x", "-", "from", "by"})


def generate(
    products: Sequence[Product], category_of: Mapping[str, str], texts: Sequence[str], seed: int
) -> list[tuple[Any, ...]]:
    """Returns rows of `COLUMNS`, one for each pair of query and product; all rows of a query are in the same part.

    Args:
        products: Products of the catalogue.
        category_of: Category by product id, where it is known.
        texts: Full text of each product.
        seed: Seed of the random choices.
    """
    generator, index = random.Random(seed), Bm25.of(texts)
    row_of = {product.id: row for row, product in enumerate(products)}
    relevant: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)

    def pair(kind: str, query: str, product: str, weight: float = 1.0) -> None:
        query = " ".join(query.split())[:120]
        if query and weight > relevant[query].get(product, ("", 0.0))[1]:
            relevant[query][product] = (kind, weight)

    for group, group_products in _groups(products, category_of).items():
        kind, query = group
        scores = index.scores(query)
        ordered = sorted(group_products, key=lambda product: -scores[row_of[product.id]])
        others = ordered[_HIGHEST:]
        for rank, product in enumerate(ordered[:_HIGHEST] + generator.sample(others, min(_SAMPLED, len(others)))):
            pair(kind, query, product.id, _discount(rank))
            if generator.random() < 0.2:
                pair(kind, _misspelt(query, generator), product.id)
    for product in products:
        category = category_of.get(product.id, "")
        for kind, query in _product_queries(product, category, generator):
            pair(kind, query, product.id)
            for row in _similar(index.scores(query), row_of[product.id]):
                pair(kind, query, products[row].id, _SIMILAR_WEIGHT)
            if generator.random() < 0.1:
                pair("misspelt", _misspelt(query, generator), product.id)
    for query in _shared_words(products):
        for rank, row in enumerate(index.rank(query, _WORD_PRODUCTS)):
            pair("words", query, products[row].id, _discount(rank))
    rows: list[tuple[Any, ...]] = []
    for number, query in enumerate(sorted(relevant)):
        draw = generator.random()
        part = "valid" if draw < 0.02 else "test" if draw < 0.04 else "train"
        for product, (kind, weight) in sorted(relevant[query].items()):
            rows.append((f"s{number}", product, query, kind, weight * _WEIGHTS.get(kind, 1.0), part))
    return rows


def _similar(scores: np.ndarray, own: int) -> list[int]:
    """Returns the rows of other products whose score is nearly that of row `own`."""
    best = np.argpartition(-scores, min(_SIMILAR, len(scores) - 1))[: _SIMILAR + 1]
    return [int(row) for row in best if row != own and scores[row] >= max(_SIMILAR_SCORE * scores[own], 1e-6)]


def _discount(rank: int) -> float:
    """Returns the weight of the product at a rank, from 0: the discount of NDCG (Järvelin & Kekäläinen 2002)."""
    return 1.0 / math.log2(rank + 2)


def _shared_words(products: Sequence[Product]) -> list[str]:
    """Returns the words, and pairs of adjacent words, that several titles contain; mere numbers are left out."""
    counts: Counter[str] = Counter()
    for product in products:
        words = re.findall(r"[\w.+-]+", product.title.lower())
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(words) if a not in _STOP and b not in _STOP]
        counts.update({*(word for word in words if word not in _STOP), *pairs})
    return sorted(words for words, n in counts.items() if n >= _MIN_TITLES and re.search("[a-z]{2}", words))


def _groups(products: Sequence[Product], category_of: Mapping[str, str]) -> dict[tuple[str, str], list[Product]]:
    """Returns the products of each category, brand, brand and category, and property and category.

    The keys are the kind of query and its text.
    """
    groups: dict[tuple[str, str], list[Product]] = defaultdict(list)
    for product in products:
        category, brand = category_of.get(product.id), product.brand.lower()
        if brand:
            groups["brand", brand].append(product)
        if not category:
            continue
        for phrase in _phrases(category):
            groups["category", phrase].append(product)
            if brand:
                groups["brand and category", f"{brand} {phrase}"].append(product)
            for name in _PROPERTIES:
                value = product.properties.get(name)
                if isinstance(value, str) and len(value) <= 24:
                    groups["property and category", f"{value.lower()} {phrase}"].append(product)
    return groups


def _phrases(category: str) -> set[str]:
    """Returns the ways to write a category: each alternative of ``headphones/headset``, in singular and plural."""
    first, _, last = category.rpartition(" ")
    phrases = {f"{first} {alternative}".strip() for alternative in last.split("/")} | {category.replace("/", " ")}
    return phrases | {_other_number(phrase) for phrase in phrases}


def _other_number(phrase: str) -> str:
    """Returns the plural of a singular phrase, and the singular of a plural phrase."""
    if phrase.endswith("s") and not phrase.endswith(("ss", "us")):
        return phrase[:-1]
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        return f"{phrase[:-1]}ies"
    return f"{phrase}es" if phrase.endswith(("s", "x", "ch", "sh")) else f"{phrase}s"


def _product_queries(product: Product, category: str, generator: random.Random) -> list[tuple[str, str]]:
    """Returns queries for one product, each as kind and text."""
    words = [w for w in re.findall(r"[\w.+-]+", product.title.lower()) if w not in _STOP]
    name = re.findall(r"[\w.+-]+", product.name.lower())
    queries = [("name", product.name.lower()), ("brand and name", f"{product.brand} {' '.join(name[:3])}".lower())]
    for _ in range(2):
        count = generator.randint(2, 4)
        if len(words) > count:
            start = generator.randrange(len(words) - count)
            kept = words[start : start + count]
            queries.append(("partial title", " ".join(kept)))
            queries.append(("scattered title", " ".join(generator.sample(words, count))))
    described = re.findall(r"[\w.+-]+", product.description.lower())
    if len(described) >= 3:
        start = generator.randrange(max(1, len(described) - 4))
        queries.append(("description", " ".join(described[start : start + generator.randint(2, 5)])))
    compatible = product.properties.get("compatibility")
    if isinstance(compatible, str):
        model = generator.choice(re.split(r"[,;/]", compatible)).strip().lower()
        queries.append(("compatibility", f"{' '.join(model.split()[:4])} {category}"))
    texts = [value for value in product.properties.values() if isinstance(value, str) and len(value) <= 24]
    if texts and category:
        queries.append(("property and category", f"{generator.choice(texts).lower()} {category}"))
    return queries


def _misspelt(text: str, generator: random.Random) -> str:
    """Returns a text with one typing error in a word of at least four letters, or with two words joined."""
    words = text.split()
    if len(words) > 1 and generator.random() < 0.25:
        position = generator.randrange(len(words) - 1)
        return " ".join([*words[:position], words[position] + words[position + 1], *words[position + 2 :]])
    long = [position for position, word in enumerate(words) if len(word) >= 4]
    if not long:
        return text
    position = generator.choice(long)
    word = words[position]
    letter = generator.randrange(1, len(word) - 1)
    match generator.randrange(4):
        case 0:
            word = word[:letter] + word[letter + 1 :]
        case 1:
            word = word[:letter] + word[letter] + word[letter:]
        case 2:
            word = word[:letter] + word[letter + 1] + word[letter] + word[letter + 2 :]
        case _:
            word = f"{word[:letter]} {word[letter:]}"
    return " ".join([*words[:position], word, *words[position + 1 :]])
