"""Recognises the meaning of column names by English and German words for users, items, times, ratings and ids."""

from __future__ import annotations

import re

_WORDS = {
    "user": (
        "user users uid userid customer client buyer purchaser member visitor household account person people player "
        "reviewer shopper reader subscriber viewer listener guest patient student profile kunde kunden nutzer benutzer "
        "käufer mitglied"
    ),
    "item": (
        "item items iid itemid product products movie film article sku asin isbn book track song artist video content "
        "offer listing game recipe news doc document course job story post restaurant business artikel produkt"
    ),
    "time": (
        "time timestamp ts date datetime day when unix created at on occurred purchased bought viewed clicked zeit "
        "datum zeitpunkt zeitstempel"
    ),
    "rating": "rating ratings star stars score overall grade vote bewertung",
    "weight": "weight gewicht",
    "amount": "quantity qty count plays amount n times frequency menge anzahl",
}
_VOCABULARY = {role: frozenset(words.split()) for role, words in _WORDS.items()}
_ID = frozenset(("id", "ids", "key", "code", "no", "nr", "number", "nummer", "uuid", "token", "hash"))
_ID_ENDING = r"(id|key|code|nr|number|nummer)$"


def words_of(column: str) -> list[str]:
    """Returns the words of a column's name in small letters: the same for ``CustomerID`` and ``customer-id:token``."""
    name = re.sub(r":\w+$", "", column)  # the type that RecBole appends
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]


def names_role(column: str, role: str) -> bool:
    """Returns whether the name of a column contains a word for the role.

    The word may have the ending of an id, as in ``userid`` or ``Kundennummer``.
    """
    words = words_of(column)
    known = _VOCABULARY[role]
    return any(word in known or re.sub(_ID_ENDING, "", word) in known for word in words)


def names_id(column: str) -> bool:
    """Returns whether the name of a column contains a word for an id, such as ``key`` or ``code``."""
    return bool(_ID & set(words_of(column)))
