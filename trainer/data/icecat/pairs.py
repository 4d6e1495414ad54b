"""Search queries made of a catalogue: what a person might type who wants a product, and the products that answer it.

Nobody typed them, so nothing of the graded queries can leak in. Each kind of query below is one that people use; a
query that stands for a whole group of products (a category, a brand) is paired with those of them that say its words
most clearly, and a sample of the others; one that asks for a product also with those that answer it nearly as well, at
a lower weight; words that several titles have with the products that say them most clearly. All three judge by BM25
over all that is written of a product: weak supervision, as of Dehghani et al. 2017, "Neural Ranking Models with Weak
Supervision".
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.index.lexical.bm25 import Bm25

if TYPE_CHECKING:
    from trainer.data.icecat.catalogue import Product

COLUMNS = ("search", "product", "query", "kind", "weight", "part")
_CLEAREST, _SAMPLED = 20, 10
"""Products of a group that a query of it is paired with, at most: by their words, and at random."""
_SIMILAR, _NEARLY, _PARTLY = 4, 0.9, 0.4
"""Further products of a query for one: at most, with at least so much of its own score, at this weight."""
_WEIGHTS = {"category": 4.0, "brand": 2.0, "brand and category": 2.0, "property and category": 2.0,
            "words": 2.0}  # fmt: skip
"""Of the pairs of a kind of query, 1 where it is not named: people ask for kinds of things more than for a title."""
_SHARED, _FOR_WORDS = 3, 15
"""Titles that hold a word, or two words together, for it to be a query; its products."""
_VALUES = ("type", "connectivity_technology", "product_colour", "form_factor", "material", "printing_colours",
           "device_interface", "operating_system_installed", "processor_family", "connector_1")  # fmt: skip
"""Properties that people put before a category."""
_STOP = frozenset({"for", "with", "and", "the", "of", "to", "in", "a", "x", "-", "from", "by"})


def make(
    products: Sequence[Product], named: Mapping[str, str], texts: Sequence[str], seed: int
) -> list[tuple[Any, ...]]:
    """Returns rows of `COLUMNS`: each query is a search of its own, paired with products; parts are by query.

    Args:
        products: the catalogue.
        named: category by id, where one is known.
        texts: all that is written of each product.
        seed: of what is drawn.
    """
    generator, index = random.Random(seed), Bm25.of(texts)
    row_of = {product.id: row for row, product in enumerate(products)}
    answers: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)

    def pair(kind: str, query: str, product: str, weight: float = 1.0) -> None:
        query = " ".join(query.split())[:120]
        if query and weight > answers[query].get(product, ("", 0.0))[1]:
            answers[query][product] = (kind, weight)

    for group, members in _groups(products, named).items():
        kind, query = group
        scores = index.scores(query)
        ordered = sorted(members, key=lambda product: -scores[row_of[product.id]])
        others = ordered[_CLEAREST:]
        for place, product in enumerate(ordered[:_CLEAREST] + generator.sample(others, min(_SAMPLED, len(others)))):
            pair(kind, query, product.id, _discount(place))
            if generator.random() < 0.2:
                pair(kind, _misspelt(query, generator), product.id)
    for product in products:
        category = named.get(product.id, "")
        for kind, query in _own(product, category, generator):
            pair(kind, query, product.id)
            for row in _similar(index.scores(query), row_of[product.id]):
                pair(kind, query, products[row].id, _PARTLY)
            if generator.random() < 0.1:
                pair("misspelt", _misspelt(query, generator), product.id)
    for query in _shared_words(products):
        for place, row in enumerate(index.rank(query, _FOR_WORDS)):
            pair("words", query, products[row].id, _discount(place))
    rows: list[tuple[Any, ...]] = []
    for number, query in enumerate(sorted(answers)):
        draw = generator.random()
        part = "valid" if draw < 0.02 else "test" if draw < 0.04 else "train"
        for product, (kind, weight) in sorted(answers[query].items()):
            rows.append((f"s{number}", product, query, kind, weight * _WEIGHTS.get(kind, 1.0), part))
    return rows


def _similar(scores: np.ndarray, own: int) -> list[int]:
    """Returns the rows of products that answer nearly as well as `own`."""
    best = np.argpartition(-scores, min(_SIMILAR, len(scores) - 1))[: _SIMILAR + 1]
    return [int(row) for row in best if row != own and scores[row] >= max(_NEARLY * scores[own], 1e-6)]


def _discount(place: int) -> float:
    """Returns what the product at a place (from 0) counts: that of NDCG (Järvelin & Kekäläinen 2002)."""
    return 1.0 / math.log2(place + 2)


def _shared_words(products: Sequence[Product]) -> list[str]:
    """Returns the words, and pairs of words side by side, that stand in several titles, without mere numbers."""
    counts: Counter[str] = Counter()
    for product in products:
        words = re.findall(r"[\w.+-]+", product.title.lower())
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(words) if a not in _STOP and b not in _STOP]
        counts.update({*(word for word in words if word not in _STOP), *pairs})
    return sorted(words for words, n in counts.items() if n >= _SHARED and re.search("[a-z]{2}", words))


def _groups(products: Sequence[Product], named: Mapping[str, str]) -> dict[tuple[str, str], list[Product]]:
    """Returns the products of each category, brand, brand and category, and property and category, as people say it."""
    groups: dict[tuple[str, str], list[Product]] = defaultdict(list)
    for product in products:
        category, brand = named.get(product.id), product.brand.lower()
        if brand:
            groups["brand", brand].append(product)
        if not category:
            continue
        for said in _said(category):
            groups["category", said].append(product)
            if brand:
                groups["brand and category", f"{brand} {said}"].append(product)
            for name in _VALUES:
                value = product.properties.get(name)
                if isinstance(value, str) and len(value) <= 24:
                    groups["property and category", f"{value.lower()} {said}"].append(product)
    return groups


def _said(category: str) -> set[str]:
    """Returns how people say a category: each of ``headphones/headset``, and one or many of them."""
    first, _, last = category.rpartition(" ")
    said = {f"{first} {alternative}".strip() for alternative in last.split("/")} | {category.replace("/", " ")}
    return said | {_other_number(phrase) for phrase in said}


def _other_number(phrase: str) -> str:
    """Returns the plural of a phrase, or its singular."""
    if phrase.endswith("s") and not phrase.endswith(("ss", "us")):
        return phrase[:-1]
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        return f"{phrase[:-1]}ies"
    return f"{phrase}es" if phrase.endswith(("s", "x", "ch", "sh")) else f"{phrase}s"


def _own(product: Product, category: str, generator: random.Random) -> list[tuple[str, str]]:
    """Returns queries that ask for this product."""
    words = [w for w in re.findall(r"[\w.+-]+", product.title.lower()) if w not in _STOP]
    name = re.findall(r"[\w.+-]+", product.name.lower())
    own = [("name", product.name.lower()), ("brand and name", f"{product.brand} {' '.join(name[:3])}".lower())]
    for _ in range(2):
        count = generator.randint(2, 4)
        if len(words) > count:
            at = generator.randrange(len(words) - count)
            kept = words[at : at + count]
            own.append(("partial title", " ".join(kept)))
            own.append(("scattered title", " ".join(generator.sample(words, count))))
    said = re.findall(r"[\w.+-]+", product.description.lower())
    if len(said) >= 3:
        at = generator.randrange(max(1, len(said) - 4))
        own.append(("description", " ".join(said[at : at + generator.randint(2, 5)])))
    compatible = product.properties.get("compatibility")
    if isinstance(compatible, str):
        model = generator.choice(re.split(r"[,;/]", compatible)).strip().lower()
        own.append(("compatibility", f"{' '.join(model.split()[:4])} {category}"))
    texts = [value for value in product.properties.values() if isinstance(value, str) and len(value) <= 24]
    if texts and category:
        own.append(("property and category", f"{generator.choice(texts).lower()} {category}"))
    return own


def _misspelt(text: str, generator: random.Random) -> str:
    """Returns a text with one slip of the finger in a word of four letters or more, or with two words run together."""
    words = text.split()
    if len(words) > 1 and generator.random() < 0.25:
        at = generator.randrange(len(words) - 1)
        return " ".join([*words[:at], words[at] + words[at + 1], *words[at + 2 :]])
    long = [at for at, word in enumerate(words) if len(word) >= 4]
    if not long:
        return text
    at = generator.choice(long)
    word = words[at]
    place = generator.randrange(1, len(word) - 1)
    match generator.randrange(4):
        case 0:
            word = word[:place] + word[place + 1 :]
        case 1:
            word = word[:place] + word[place] + word[place:]
        case 2:
            word = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        case _:
            word = f"{word[:place]} {word[place:]}"
    return " ".join([*words[:at], word, *words[at + 1 :]])
