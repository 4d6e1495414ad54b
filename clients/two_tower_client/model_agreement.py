"""How a retrieve finds a model that both services have open, whatever swaps meanwhile.

::

            Embed(pin) ──────────── Embedded(m) ───────────► Search(m) ── Searched ──► Pin(newest)
               │                                                │
               │ NotServed                                      │ NotServed
               ▼                                                ▼
            choose a model m ◄──────────────────────────────────┘
               ├── its embeddings are not the last made ──► Embed(m), then as above
               └── they are ──► Search(m)

An embedding means nothing in the space of another model, so a search always names the model that its embedding
names. Replicas behind one address may differ in the middle of a rollout: a model that one of them refuses may be open
at the next, and one that answered an Embed need not be open at the other. So the choice looks at every refusal of
this request, since a refusal lists all that its replica has open: the model to try is one that the fewest of them
lack, and of those the one that the ANN side prefers.

Why that ends: every refusal lacks the model just tried, and a model that is open everywhere all along is lacked by
none. A replica that has two open at most leaves no other after two refusals, so the third round answers. One that
still keeps retiring bundles, after swaps in quick succession, has more: then rounds beyond `ROUNDS_MAX` follow as long
as some listed model is lacked by no refusal, of which each round leaves fewer. Where no model is open everywhere, a
round may still find replicas that agree; where none does, the request fails and says what each side had.

Pure: no clock, no threads, no network. `exchange` is driven by whoever performs the steps.
"""

from collections.abc import Generator
from dataclasses import dataclass

from two_tower_client.errors import ModelNotServed, ServerError

ROUNDS_MAX = 3
"""The most Embed steps, and the most Search steps, of one request, unless the model to try is lacked by no refusal."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What one request hands to the next.

    Attributes:
        model_version: The model to embed with first: the newest that the ANN side reported. Empty: not known yet, so
            the query tower chooses.
    """

    model_version: str = ""


@dataclass(frozen=True, slots=True)
class Embed:
    """Step: embed the queries with `model_version` (empty: whatever is live). Answer: Embedded or NotServed."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Search:
    """Step: search with the last embeddings made, which are of `model_version`. Answer: Searched or NotServed."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """Outcome of Embed: the embeddings are of `model_version`."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Searched:
    """Outcome of Search: an index of `model_version` answered, where `newest_model_version` is live."""

    model_version: str
    newest_model_version: str


@dataclass(frozen=True, slots=True)
class NotServed:
    """Outcome of either step: the replica does not have that model; `model_versions` it has, the live one first."""

    model_versions: tuple[str, ...]


Step = Embed | Search
Outcome = Embedded | Searched | NotServed
Exchange = Generator[Step, Outcome, Pin]


def exchange(pin: Pin) -> Exchange:
    """Yields the steps of one request, and returns the pin of the next.

    The last Embed answered is always of the model of the Search that follows, and the answer to that Search is the
    answer to the request.

    Args:
        pin: What the request before returned; `Pin()` at first.

    Raises:
        ModelNotServed: If `ROUNDS_MAX` rounds found no model that both sides have, and every one listed was lacked.
        ServerError: If a service breaks the contract: an embedding of no or another model than asked for, or an
            answer from an index of another model.
    """
    wanted, embedded, embeds, searches = pin.model_version, "", 0, 0
    by_query_tower, by_ann = list[NotServed](), list[NotServed]()
    while True:
        if not embedded or wanted != embedded:
            if embeds >= ROUNDS_MAX and _lacked(wanted, by_query_tower, by_ann):
                raise _no_agreement(by_query_tower, by_ann)
            embeds += 1
            outcome = yield Embed(wanted)
            if isinstance(outcome, NotServed):
                by_query_tower.append(_without(wanted, outcome))
                wanted = _choose(by_query_tower, by_ann)
                continue
            embedded = _embedded_model(wanted, outcome)
        if searches >= ROUNDS_MAX and _lacked(embedded, by_query_tower, by_ann):
            raise _no_agreement(by_query_tower, by_ann)
        searches += 1
        outcome = yield Search(embedded)
        if isinstance(outcome, NotServed):
            by_ann.append(_without(embedded, outcome))
            wanted = _choose(by_query_tower, by_ann)
            continue
        return Pin(_searched_newest(embedded, outcome))


def _without(model_version: str, refusal: NotServed) -> NotServed:
    # A replica that opens the model between refusing it and listing what it has would be asked for it for ever.
    return NotServed(tuple(model for model in refusal.model_versions if model != model_version))


def _choose(by_query_tower: list[NotServed], by_ann: list[NotServed]) -> str:
    """Returns the model that the fewest refusals lack; of several, the one that the latest of the ANN side prefers."""
    refusals = [*reversed(by_ann), *reversed(by_query_tower)]
    models = dict.fromkeys(model for refusal in refusals for model in refusal.model_versions)
    if not models:
        raise _no_agreement(by_query_tower, by_ann)
    # `min` keeps the first of equals, and `models` is in order of preference.
    return min(models, key=lambda model: sum(model not in refusal.model_versions for refusal in refusals))


def _lacked(model_version: str, by_query_tower: list[NotServed], by_ann: list[NotServed]) -> bool:
    return any(model_version not in refusal.model_versions for refusal in (*by_query_tower, *by_ann))


def _embedded_model(wanted: str, outcome: Embedded | Searched) -> str:
    if not isinstance(outcome, Embedded):
        raise TypeError(f"an Embed is answered by Embedded or NotServed, got {outcome!r}")
    if not outcome.model_version or (wanted and outcome.model_version != wanted):
        raise ServerError(
            f"the query tower was asked to embed with model {wanted or '(any)'!r} and answered with "
            f"{outcome.model_version!r}; nothing was searched: check which program answers there"
        )
    return outcome.model_version


def _searched_newest(embedded: str, outcome: Embedded | Searched) -> str:
    if not isinstance(outcome, Searched):
        raise TypeError(f"a Search is answered by Searched or NotServed, got {outcome!r}")
    if outcome.model_version != embedded:
        raise ServerError(
            f"the ANN service was sent embeddings of model {embedded!r} and searched {outcome.model_version!r}; "
            "the answer was dropped: check which program answers there"
        )
    return outcome.newest_model_version


def _no_agreement(by_query_tower: list[NotServed], by_ann: list[NotServed]) -> ModelNotServed:
    def had(refusals: list[NotServed]) -> str:
        return " / ".join(", ".join(refusal.model_versions) or "nothing" for refusal in refusals) or "not refused"

    last = (by_ann or by_query_tower)[-1]
    return ModelNotServed(
        "query tower and ANN service share no model; publish one bundle to both "
        f"(open at the query tower: {had(by_query_tower)}; open at the ANN service: {had(by_ann)})",
        last.model_versions,
    )
