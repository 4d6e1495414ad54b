"""What a recipe says of how the towers are fitted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.recipe.tables import STRICT

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]

Metric = Literal[
    "recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10", "ndcg@20", "ndcg@100", "mrr", "hr@10", "map@10",
    "coverage@10",
]  # fmt: skip


@dataclass(frozen=True, config=STRICT)
class Training:
    """How the towers are fitted.

    Attributes:
        dimension: length of the embeddings, one less than that of the vectors where they hold a prior.
        epochs: passes over the training events, at most.
        batch_size: events a step, about. Fewer where little data would give an epoch under 20 steps.
        learning_rate: of AdamW at the start; it decays to 0 along a cosine.
        weight_decay: of AdamW.
        event_order: of a user in training. ``time``: as they happened. ``shuffled``: each item once, in an order that
            each epoch draws anew, so that any of a user's items are the history of any other, as for an autoencoder of
            them (Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering"): where taste says more than
            the order does. `novel_targets` then says nothing more.
        novel_targets: whether an event whose item the user had before is context alone and no target: where people buy
            the same again, and new items are what is asked for.
        history_lag: seconds before a target within which events stay out of its history in training; 0: those at the
            same time, as where a basket has one time and live requests come before the basket. Default: order alone
            decides.
        loss: see `trainer.model.losses`. ``full_softmax`` ranks the whole catalogue each step: for small ones.
        negatives: drawn from the catalogue each step, by ``sampled_softmax``, ``mixed_softmax``, ``gbce`` and ``bce``.
        sampling: how they are drawn: all items alike, or by their training events to a power.
        sampling_power: that power.
        queue: item vectors of earlier steps that are negatives too, of ``in_batch_softmax``.
        hard_negatives: a step, from the nearest items of its queries when the epoch began; with ``sampled_softmax``.
        hard_negative_ceiling: a query does not see one of them whose cosine is above this share of its positive's: it
            may well be an answer too. 1: as near as the positive.
        binary_share: of ``bce`` in the loss, over the same pairs and negatives; the rest is ``sampled_softmax``.
        calibration: t of ``gbce``; 0 is binary cross-entropy.
        log_q: whether popularity in the batch is the share of the training events, or, with ``in_batch_softmax``,
            estimated as they stream by.
        temperature: divides the logits; the start value where it is learned.
        learn_temperature: whether it is.
        initial_norm: about the length of an embedding at the start. Small ones learn faster where items are rare.
        prior_weight: of what was taken lately, as one more dimension of the vectors that is added when the towers are
            fitted, see `trainer.training.popularity_prior`; 0: none.
        prior_days: how long ago the events are, at most, that it counts: those that may be targets.
        precision: in which the towers compute while they are fitted. ``mixed_bfloat16`` and ``mixed_float16`` (with its
            loss scaled) halve time and memory on a GPU that has them; weights, loss and what is exported are float32.
        patience: epochs without a better validation `metric` before training stops and goes back to the best; 0: never.
        metric: that choice is by.
        members: pairs of towers, each fitted from a seed of its own and made one, see `trainer.model.ensemble`: better by
            some percent, for as many times the training, dimension of the vectors and work of the query tower.
        refit: whether the towers are fitted again, on training and validation, for as many epochs as were best.
    """

    dimension: Annotated[int, Field(ge=2, le=2048)] = 64
    epochs: Positive = 20
    batch_size: Annotated[int, Field(ge=2)] = 1024
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    event_order: Literal["time", "shuffled"] = "time"
    novel_targets: bool = False
    history_lag: Annotated[float, Field(ge=0.0)] | None = None
    loss: Literal["in_batch_softmax", "sampled_softmax", "mixed_softmax", "full_softmax", "gbce", "bce"] = (
        "in_batch_softmax"
    )
    negatives: Annotated[int, Field(ge=1)] = 2048
    sampling: Literal["uniform", "popularity"] = "uniform"
    sampling_power: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    queue: Annotated[int, Field(ge=0)] = 0
    hard_negatives: Annotated[int, Field(ge=0)] = 0
    hard_negative_ceiling: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    binary_share: Share = 0.0
    calibration: Annotated[float, Field(ge=0.0, le=1.0)] = 0.75
    log_q: Literal["counts", "streaming"] = "counts"
    temperature: Annotated[float, Field(gt=0.0)] = 0.1
    learn_temperature: bool = True
    initial_norm: Annotated[float, Field(gt=0.0)] = 1.0
    prior_weight: Share = 0.0
    prior_days: Annotated[float, Field(ge=0.001, le=36_500.0)] = 30.0
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    patience: Annotated[int, Field(ge=0)] = 0
    metric: Metric = "ndcg@10"
    members: Annotated[int, Field(ge=1, le=16)] = 1
    refit: bool = False
