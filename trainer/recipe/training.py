"""The recipe's ``[training]``: loss, negatives, optimizer, early stopping, ensemble."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.recipe.tables import STRICT, Positive, Share

Metric = Literal[
    "recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10", "ndcg@20", "ndcg@100", "mrr", "hr@10", "map@10",
    "coverage@10",
]  # fmt: skip


@dataclass(frozen=True, config=STRICT)
class Training:
    """How the towers are trained.

    Attributes:
        dimension: Length of the embeddings. With a recent-popularity prior the published vectors are one longer.
        epochs: Largest number of passes over the training events.
        batch_size: Approximate number of events of a step; smaller where an epoch would have fewer than 20 steps.
        learning_rate: Initial learning rate of AdamW; it decays to 0 along a cosine.
        weight_decay: Weight decay of AdamW.
        event_order: Order of a user's events in training. ``time``: as they happened. ``shuffled``: each item once, in
            an order that is drawn anew for each epoch, so that any items of a user are the history of any other one, as
            in an autoencoder (Liang et al. 2018, "Variational Autoencoders for Collaborative Filtering"); suits data in
            which taste matters more than order. `novel_targets` has no effect then.
        novel_targets: Whether an event whose item the user had interacted with before is context only and not a target;
            suits data with repeated purchases where new items are to be recommended.
        history_lag: Seconds before a target; events within them are left out of its history in training. 0 leaves out
            events of the same time, for baskets with one time whose items are requested before the basket is known.
            Default: all earlier events are in the history.
        loss: Loss function, see `trainer.model.losses`. ``full_softmax`` ranks the whole catalogue in each step, which
            suits small catalogues.
        negatives: Number of negatives that are drawn from the catalogue in each step, for ``sampled_softmax``,
            ``mixed_softmax``, ``gbce`` and ``bce``.
        sampling: Distribution of the negatives: ``uniform``, or ``popularity``: proportional to a power of the number
            of training events.
        sampling_power: Exponent of ``popularity``.
        queue: Number of item embeddings of earlier steps that are further negatives of ``in_batch_softmax``.
        hard_negatives: Number of hard negatives of a step, drawn from the nearest items of its queries at the start of
            the epoch; for ``sampled_softmax``.
        hard_negative_ceiling: Largest ratio of a hard negative's cosine to the positive's cosine; items above it are
            masked for that query, as they may well be relevant. 1: as near as the positive.
        bce_weight: Weight of ``bce`` in the loss, over the same pairs and negatives; ``sampled_softmax`` has the rest.
        calibration: The parameter t of ``gbce``; 0 is binary cross-entropy.
        log_q: Source of the popularity in the logQ correction of a batch: ``counts`` of the training events, or
            ``streaming`` estimates, for ``in_batch_softmax``.
        temperature: Divisor of the logits; the initial value where it is learned.
        learn_temperature: Whether the temperature is learned.
        initial_norm: Approximate length of an embedding at initialisation. Small values learn faster where items have
            few events.
        prior_weight: Weight of the recent-popularity prior, which is added as one more dimension of the vectors after
            training, see `trainer.training.popularity_prior`. 0: no prior.
        prior_days: Days before the newest training event whose events the recent-popularity prior counts, as far as
            they may be targets.
        precision: Precision of the layers in training. ``mixed_bfloat16`` and ``mixed_float16`` (with loss scaling)
            halve time and memory on a GPU that supports them; weights, loss and exported towers are float32.
        patience: Epochs without a better validation `metric` before training stops and returns to the best epoch; 0:
            no early stopping.
        metric: Validation metric of early stopping and tuning.
        ensemble_size: Number of pairs of towers that are trained with different seeds and joined to one, see
            `trainer.model.ensemble`. Improves the metrics by several percent, and multiplies training time, dimension
            of the vectors and work of the query tower.
        refit: Whether the towers are trained again, on training and validation events, for the number of epochs that
            was best on validation, with the learning rates of the same epochs of the first training; without `patience`
            for all epochs.
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
    negatives: Positive = 2048
    sampling: Literal["uniform", "popularity"] = "uniform"
    sampling_power: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    queue: Annotated[int, Field(ge=0)] = 0
    hard_negatives: Annotated[int, Field(ge=0)] = 0
    hard_negative_ceiling: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    bce_weight: Share = 0.0
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
    ensemble_size: Annotated[int, Field(ge=1, le=16)] = 1
    refit: bool = False
