"""How a retrieve finds a model that both services have open, even while models are swapped.

::

            Embed(pin) ──────────── Embedded(m) ───────────► Search(m) ── Searched ──► Pin(newest)
               │                                                │
               │ NotServed                                      │ NotServed
               ▼                                                ▼
            choose a model m ◄──────────────────────────────────┘
               ├── the last embeddings are of another model ──► Embed(m), then as above
               └── the last embeddings are of m ──────────────► Search(m)

An embedding is meaningless in the space of another model, so each search names the model of its embeddings. During a
rollout the replicas behind one address may differ: one replica refuses a model that the next one has open, and a model
that the query tower has open may be missing at the ANN service. Each refusal lists the models that its replica has
open. The next model to try is therefore chosen from all refusals of this request: the one that is missing from the
fewest of them and, among equals, the one that comes first in the latest refusal of the ANN service.

Termination: each refusal rules out the model that was just tried, and a model that is open at every replica during the
whole request is never ruled out. A replica usually has at most two models open. After two refusals only a model that is
open everywhere remains, so the third round succeeds. After several swaps in quick succession a replica may have more
models open. Then rounds beyond `ROUNDS_MAX` follow as long as a listed model is missing from no refusal; each round
leaves fewer of these. If no model is open everywhere, a round may still reach replicas that agree. If none does, the
request fails with the models that each service had open.

This module is pure: it has no clock, no threads and no network. The caller of `exchange` performs the steps.
"""

from collections.abc import Generator
from dataclasses import dataclass

from two_tower_client.errors import ModelNotServed, ServerError

ROUNDS_MAX = 3
"""Most Embed steps and most Search steps of one request, unless no refusal rules out the next model to try."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The model that the next request tries first.

    Attributes:
        model_version: The live model that the ANN service reported last. Empty: not known yet; the query tower then
            uses its live model.
    """

    model_version: str = ""


@dataclass(frozen=True, slots=True)
class Embed:
    """Step: embed the queries with `model_version` (empty: the live model). Outcome: Embedded or NotServed."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Search:
    """Step: search with the last embeddings, which are of `model_version`. Outcome: Searched or NotServed."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """Outcome of Embed: the embeddings are of `model_version`."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Searched:
    """Outcome of Search: an index of `model_version` answered; `newest_model_version` is live at that replica."""

    model_version: str
    newest_model_version: str


@dataclass(frozen=True, slots=True)
class NotServed:
    """Outcome of both steps: the model is not open; `model_versions` are open at that replica, the live one first."""

    model_versions: tuple[str, ...]


Step = Embed | Search
Outcome = Embedded | Searched | NotServed
Exchange = Generator[Step, Outcome, Pin]


def exchange(pin: Pin) -> Exchange:
    """Yields the steps of one request, and returns the pin for the next request.

    Each Search names the model of the last embeddings. The answer to the last Search is the answer to the request.

    Args:
        pin: The pin that the previous request returned; `Pin()` for the first request.

    Raises:
        ModelNotServed: If `ROUNDS_MAX` rounds found no model that both services have open, and every listed model is
            ruled out.
        ServerError: If a service breaks the contract: embeddings without a model or of another model than requested,
            or results from an index of another model.
    """
    wanted, embedded, embeds, searches = pin.model_version, "", 0, 0
    by_query_tower, by_ann = list[NotServed](), list[NotServed]()
    while True:
        if not embedded or wanted != embedded:
            if embeds >= ROUNDS_MAX and _ruled_out(wanted, by_query_tower, by_ann):
                raise _no_agreement(by_query_tower, by_ann)
            embeds += 1
            outcome = yield Embed(wanted)
            if isinstance(outcome, NotServed):
                by_query_tower.append(_remove_model(wanted, outcome))
                wanted = _choose(by_query_tower, by_ann)
                continue
            embedded = _embedded_model(wanted, outcome)
        if searches >= ROUNDS_MAX and _ruled_out(embedded, by_query_tower, by_ann):
            raise _no_agreement(by_query_tower, by_ann)
        searches += 1
        outcome = yield Search(embedded)
        if isinstance(outcome, NotServed):
            by_ann.append(_remove_model(embedded, outcome))
            wanted = _choose(by_query_tower, by_ann)
            continue
        return Pin(_searched_newest(embedded, outcome))


def _remove_model(model_version: str, refusal: NotServed) -> NotServed:
    # A replica may open the model between refusing it and listing its models. It would then be tried again for ever.
    return NotServed(tuple(model for model in refusal.model_versions if model != model_version))


def _choose(by_query_tower: list[NotServed], by_ann: list[NotServed]) -> str:
    """Returns the model that the fewest refusals rule out; among equals, the first of the latest ANN refusal."""
    refusals = [*reversed(by_ann), *reversed(by_query_tower)]
    models = dict.fromkeys(model for refusal in refusals for model in refusal.model_versions)
    if not models:
        raise _no_agreement(by_query_tower, by_ann)
    # `min` returns the first of equals, and `models` is in order of preference.
    return min(models, key=lambda model: sum(model not in refusal.model_versions for refusal in refusals))


def _ruled_out(model_version: str, by_query_tower: list[NotServed], by_ann: list[NotServed]) -> bool:
    """Returns whether any replica that refused a model lacks this one too."""
    return any(model_version not in refusal.model_versions for refusal in (*by_query_tower, *by_ann))


def _embedded_model(wanted: str, outcome: Embedded | Searched) -> str:
    if not isinstance(outcome, Embedded):
        raise TypeError(f"the outcome of Embed has to be Embedded or NotServed, got {outcome!r}")
    if not outcome.model_version or (wanted and outcome.model_version != wanted):
        raise ServerError(
            f"the query tower was requested to embed with model {wanted or '(any)'!r} and answered with "
            f"{outcome.model_version!r}; nothing was searched: check which program answers at its address"
        )
    return outcome.model_version


def _searched_newest(embedded: str, outcome: Embedded | Searched) -> str:
    if not isinstance(outcome, Searched):
        raise TypeError(f"the outcome of Search has to be Searched or NotServed, got {outcome!r}")
    if outcome.model_version != embedded:
        raise ServerError(
            f"the ANN service was sent embeddings of model {embedded!r} and searched {outcome.model_version!r}; "
            "the answer was dropped: check which program answers at its address"
        )
    return outcome.newest_model_version


def _no_agreement(by_query_tower: list[NotServed], by_ann: list[NotServed]) -> ModelNotServed:
    def listed(refusals: list[NotServed]) -> str:
        return " / ".join(", ".join(refusal.model_versions) or "nothing" for refusal in refusals) or "not refused"

    last = (by_ann or by_query_tower)[-1]
    return ModelNotServed(
        "query tower and ANN service share no model; publish one bundle to both "
        f"(open at the query tower: {listed(by_query_tower)}; open at the ANN service: {listed(by_ann)})",
        last.model_versions,
    )
