"""The playground: a user, the history beside what one or two bundles recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from console.bundles.contents import find_title_attribute
from console.pages.common import console_of, with_clients
from console.services import playground
from console.services.clients import PairClients
from console.services.feature_form import Field, read_form, read_json, to_fields
from console.services.playground import Choice, OpenServices, Question, Result
from console.state import Console
from console.web.guard import body_of
from two_tower_client.errors import InvalidRequest, TwoTowerError
from two_tower_client.features import Features

_HISTORY_SHOWN = 30
"""Newest items of a history that are shown with their titles."""

_TEXT_SHOWN = 400
"""Characters of a text attribute that are shown."""


async def show_playground(request: Request) -> Response:
    """The forms for a user and for a search, made from what the services say."""
    console = console_of(request)

    def ask(pairs: Sequence[PairClients]) -> dict[str, Any]:
        found, trouble = _ask_all(pairs)
        if not found:
            return {"trouble": trouble, "choices": []}
        services = next(iter(found.values()))
        bundle = services.ann.bundles[0]
        return {
            "trouble": trouble,
            "choices": _choices(pairs, found),
            "fields": to_fields(services.tower.models[0]),
            "attributes": playground.attribute_types(bundle),
            "lexical": list(bundle.lexical_attributes),
        }

    values = await with_clients(request, ask)
    users = console.users.first(200) if console.users else []
    return console.pages.render(
        request, "playground.html", users=users, user_count=len(console.users or ()), k_max=playground.K_MAX, **values
    )


async def tell_examples(request: Request) -> Response:
    """Held-out queries of the live bundle of the store, as JSON: a label and the features of each."""
    console = console_of(request)

    def find(pairs: Sequence[PairClients]) -> list[dict[str, Any]]:
        services = playground.ask_status(pairs[0])
        fields = to_fields(services.tower.models[0])
        examples = console.examples.of(services.ann.bundles[0].bundle_version)
        return [{"label": _label(number, each, fields), "features": each} for number, each in enumerate(examples, 1)]

    return JSONResponse({"examples": await with_clients(request, find)})


async def tell_user(request: Request) -> Response:
    """The features of a user of the file, as JSON."""
    console, user_id = console_of(request), body_of(request).get("user_id")
    if console.users is None:
        raise InvalidRequest("the console has no file of users: start it with --users")
    if not isinstance(user_id, str):
        raise InvalidRequest.in_field("user", "is no text")
    features = await console.store_threads.run(console.users.find, user_id)
    if features is None:
        raise InvalidRequest.in_field("user", f"there is no user {user_id[:80]!r} among the {len(console.users):,}")
    return JSONResponse({"features": features})


async def tell_recommendations(request: Request) -> Response:
    """The history of a user, and what one or two bundles recommend, as JSON."""
    console, body = console_of(request), body_of(request)
    keys = body.get("bundles")
    if not isinstance(keys, list) or not 1 <= len(keys) <= 2 or not all(isinstance(key, str) for key in keys):
        raise InvalidRequest.in_field("bundles", "name one or two")
    question = Question.parse(body)

    def answer(pairs: Sequence[PairClients]) -> dict[str, Any]:
        found, trouble = _ask_all(pairs)
        choices = {choice.key: choice for choice in _choices(pairs, found)}
        missing = [key for key in keys if key not in choices]
        if missing:
            raise InvalidRequest(f"{trouble or 'that bundle is no longer open'}: load the page again")
        picked = [choices[key] for key in keys]
        features = _features(body, [found[choice.pair] for choice in picked])
        results = [
            playground.recommend(pairs[choice.pair], found[choice.pair], choice, features, question)
            for choice in picked
        ]
        return {
            "history": _history(console, results[0].history, picked[0]),
            "results": [_describe(choice, result) for choice, result in zip(picked, results, strict=True)],
        }

    return JSONResponse(await with_clients(request, answer))


def _ask_all(pairs: Sequence[PairClients]) -> tuple[dict[int, OpenServices], str]:
    """Returns the status of each pair that answers, by its position, and why one does not."""
    found: dict[int, OpenServices] = {}
    trouble = ""
    for number, pair in enumerate(pairs):
        try:
            found[number] = playground.ask_status(pair)
        except TwoTowerError as error:
            trouble = error.message
    return found, trouble


def _choices(pairs: Sequence[PairClients], found: Mapping[int, OpenServices]) -> list[Choice]:
    return playground.find_choices({n: (pairs[n].pair.name, services) for n, services in found.items()})


def _features(body: Mapping[str, Any], services: Sequence[OpenServices]) -> Features:
    """Returns the features of the form or of the JSON."""
    if isinstance(body.get("json"), str):
        return read_json(body["json"])
    values = body.get("values")
    if not isinstance(values, dict):
        raise InvalidRequest.in_field("values", "are missing")
    # The form has the features of one live model; the bundles that are asked may read others.
    schema = {f.name: f for s in reversed(services) for model in s.tower.models[::-1] for f in model.features}
    return read_form(values, list(schema.values()))


def _history(console: Console, item_ids: Sequence[str], choice: Choice) -> dict[str, Any]:
    """Returns the ids of a history, the newest first, and the first of them with their titles."""
    ids = list(dict.fromkeys(reversed(item_ids)))
    items, note = console.titles.look_up(choice.bundle_version, ids[:_HISTORY_SHOWN])
    return {"ids": ids, "items": [asdict(item) for item in items], "note": note if ids else ""}


def _describe(choice: Choice, result: Result) -> dict[str, Any]:
    retrieval = result.retrieval
    title = find_title_attribute(choice.attributes)
    return {
        "label": choice.label,
        "bundle": retrieval.bundle_version,
        "model": retrieval.model_version,
        "embed_ms": result.embed_ms,
        "search_ms": result.search_ms,
        "stored_features": result.stored_features,
        "left_out": result.left_out,
        "unknown": result.unknown,
        "coverage": retrieval.coverage,
        "candidates": retrieval.candidate_count,
        "shortened": retrieval.shortened_by_group_limits,
        "items": [
            {
                "id": hit.item_id,
                "score": hit.score,
                "title": _text(hit.attributes.get(title)) if title else "",
                "attributes": {n: _text(v) for n, v in hit.attributes.items() if n != title and v not in (None, ())},
            }
            for hit in retrieval
        ],
    }


def _text(value: object) -> str:
    """Returns an attribute as text, shortened."""
    if value is None:
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= _TEXT_SHOWN else text[: _TEXT_SHOWN - 1] + "…"


def _label(number: int, features: Mapping[str, Any], fields: Sequence[Field]) -> str:
    """Returns a label such as ``Example 3: 36.0, M, executive, history of 20``."""
    histories = {field.name for field in fields if field.is_history}
    parts = [_text(value)[:40] for value in features.values() if not isinstance(value, list)]
    parts += [f"{name} of {len(value)}" for name, value in features.items() if name in histories]
    return f"Example {number}: {', '.join(parts) or 'nothing is known'}"


ROUTES = [
    Route("/playground", show_playground),
    Route("/api/examples", tell_examples),
    Route("/api/user", tell_user, methods=["POST"]),
    Route("/api/recommend", tell_recommendations, methods=["POST"]),
]
