"""Trains one query tower and one item tower together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.dataset import Dataset
from trainer.data.events import Events
from trainer.errors import DataError, TrainingError
from trainer.features.schemas import Schemas
from trainer.model import devices, towers
from trainer.model.embeddings import embed_items, encode_items, history_slots
from trainer.model.ensemble import Towers
from trainer.model.negatives import mine_hard_negatives
from trainer.model.trained_texts import LayeredAdamW, TrainedTexts
from trainer.model.two_tower import TwoTower
from trainer.progress import SilentTraining, TrainingProgress
from trainer.recipe.feature_inputs import HistoryInput
from trainer.recipe.recipe import Recipe
from trainer.training import checkpoints, popularity_prior
from trainer.training.checkpoints import Origin, State
from trainer.training.digests import digest_events
from trainer.training.examples import Examples
from trainer.training.workers import Workers

Validate = Callable[[Towers], dict[str, float]]
"""Function that returns the validation metrics of towers by name."""

_HARD_POOL = 64
"""Number of hard negatives to mine for each user; each step draws some of them."""
_HARD_SKIP = 10
"""Number of nearest items that are not used as hard negatives, as they may well be relevant."""


@dataclass(frozen=True)
class Fitted:
    """Result of a training.

    Attributes:
        towers: Trained query tower and item tower.
        epochs: Measurements of each epoch by name, oldest first, see `fit`.
        best_epoch: Number of the epoch, from 1, whose weights the towers have.
    """

    towers: Towers
    epochs: list[dict[str, Any]]
    best_epoch: int


def fit(
    recipe: Recipe,
    dataset: Dataset,
    schemas: Schemas,
    train: Events,
    *,
    validate: Validate | None,
    epochs: int | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: TrainingProgress | None = None,
    workers: Workers | None = None,
) -> Fitted:
    """Trains a query tower and an item tower on training events, and returns them with measurements of each epoch.

    The same recipe and seed give the same weights on the same machine, also for a resumed training.

    The measurements of an epoch are ``epoch``, ``loss``, ``temperature``, ``seconds``, ``examples_per_second``,
    ``input_wait_share`` (share of the time of its steps that was spent waiting for batches) and ``val_`` metrics.

    Args:
        recipe: Recipe to train.
        dataset: Users and items.
        schemas: Feature schemas of both towers.
        train: Training events.
        validate: Returns the validation metrics after an epoch. None: neither metrics nor early stopping.
        epochs: Number of epochs after which the training ends. Default: those of the recipe. The learning rate falls
            as over all epochs of the recipe, also if fewer are trained.
        folder: Existing folder of the run, for checkpoints and TensorBoard logs. Default: neither is written.
        resume: Whether to continue from the checkpoint in `folder`. The chief decides for all workers.
        progress: Receives the progress of the training. Default: nothing is reported.
        workers: Processes that train together. All call this function; only the chief validates and has a folder, and
            all return the same towers. Default: this process alone, on the devices of `trainer.model.devices.strategy`.

    Raises:
        TrainingError: The loss is not finite.
        DataError: The recipe has a history, and a training event has relevance 0.
        RunError: A checkpoint cannot be written or read.
    """
    spec, progress = recipe.training, progress or SilentTraining()
    workers = workers or Workers(devices.strategy())
    strategy = workers.strategy
    with strategy.scope():
        examples, model = prepare(recipe, dataset, schemas, train)
    variables = [*model.variables, *model.optimizer.variables]
    origin = Origin(recipe.to_json(), digest_events(train))
    state = checkpoints.read(folder, origin, variables) if resume and folder else State()
    state = workers.share_state(state, variables, _tower_variables(model))
    loop = _Loop(recipe, dataset, schemas, train, examples, model, workers, validate, progress)
    writer = tf.summary.create_file_writer(str(folder / "tensorboard")) if folder else None
    done, last = len(state.epochs), epochs or spec.epochs
    patience = spec.patience if validate else 0
    progress.begin(last, examples.steps, done)
    batches = iter(examples.dataset(done, last - done, strategy.num_replicas_in_sync, workers.own_devices))
    while len(state.epochs) < last and not (patience and len(state.epochs) - state.best_epoch >= patience):
        measured = loop.epoch(len(state.epochs), batches)
        state.epochs.append(measured)
        value = measured.get(f"val_{spec.metric}", math.nan)
        if not patience or value > state.best_value:
            state.best_epoch, state.best_value = measured["epoch"], value
            state.best = [np.array(v) for v in _tower_variables(model)] if patience else []
        if folder:
            checkpoints.write(folder, origin, state, variables)
        if writer:
            with writer.as_default(step=measured["epoch"]):
                for name, figure in measured.items():
                    tf.summary.scalar(name, figure)
        progress.epoch(measured)
    if state.best:
        for variable, value in zip(_tower_variables(model), state.best, strict=True):
            variable.assign(value)
    is_plain = spec.precision == "float32" and strategy.num_replicas_in_sync == 1
    fitted = (model.query_tower, model.item_tower) if is_plain else _plain(recipe, schemas, model)
    return Fitted(popularity_prior.add(fitted, recipe, dataset, schemas, train), state.epochs, state.best_epoch)


def _plain(recipe: Recipe, schemas: Schemas, model: TwoTower) -> Towers:
    """Returns query tower and item tower with the weights of `model`, which compute in float32 on one device."""
    query_tower, item_tower = (tower.model for tower in towers.build(recipe, schemas))
    query_tower.set_weights(model.query_tower.get_weights())
    item_tower.set_weights(model.item_tower.get_weights())
    return query_tower, item_tower


def prepare(recipe: Recipe, dataset: Dataset, schemas: Schemas, train: Events) -> tuple[Examples, TwoTower]:
    """Returns the training examples, and the untrained model with its optimizer; all variables exist already.

    Args:
        recipe: Recipe to train.
        dataset: Users and items.
        schemas: Feature schemas of both towers.
        train: Training events.
    """
    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    spec = recipe.training
    query_tower, item_tower = towers.build(recipe, schemas, spec.precision)
    texts = TrainedTexts(schemas)
    inputs = [feature for feature in recipe.query_tower.features if isinstance(feature, HistoryInput)]
    if inputs and train.irrelevant is not None:
        raise DataError(
            f"{len(train.irrelevant):,} interactions have {recipe.interactions.relevance} 0, and the query tower reads "
            f"the history {inputs[0].name}, which is made of the items that a user interacted "
            "with: leave out those rows, or the history"
        )
    histories = [(given, query_tower.histories[given.name].encoder) for given in inputs]
    examples = Examples(
        recipe,
        dataset,
        texts.schemas,
        train,
        context=max((given.max_values if given.reads_ages else e.context for given, e in histories), default=0),
        targets=min((encoder.targets for _, encoder in histories), default=64),
    )
    counts = train.item_counts(len(dataset.items.ids))
    catalogue = encode_items(texts.schemas, dataset)
    model = TwoTower(query_tower, item_tower, recipe, catalogue, history_slots(schemas, dataset), counts, texts)
    schedule = keras.optimizers.schedules.CosineDecay(spec.learning_rate, examples.steps * spec.epochs)
    optimizer: Any = LayeredAdamW(schedule, texts.rates, spec.learning_rate, weight_decay=spec.weight_decay)
    if spec.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, jit_compile=False)
    model.compute_step_loss(_tensors(examples.batch(np.arange(1))))  # creates every variable
    model.optimizer.build(model.trainable_variables)
    return examples, model


class _Loop:
    """Runs the epochs of a training."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        schemas: Schemas,
        train: Events,
        examples: Examples,
        model: TwoTower,
        workers: Workers,
        validate: Validate | None,
        progress: TrainingProgress,
    ) -> None:
        self._recipe, self._dataset, self._schemas, self._train = recipe, dataset, schemas, train
        self._examples, self._model, self._validate, self._progress = examples, model, validate, progress
        self._workers = workers
        # Created once, as Keras would trace new models in each epoch. With several workers they are copies: towers of
        # the strategy would compute predictions on all workers at once, and only the chief validates.
        is_alone = workers.count == 1
        self._plain = (model.query_tower, model.item_tower) if is_alone else _plain(recipe, schemas, model)
        self._towers = popularity_prior.add(self._plain, recipe, dataset, schemas, train)
        strategy, own = workers.strategy, workers.own_devices
        signature = dict(examples.signature)
        if recipe.training.hard_negatives:
            signature["hard"] = tf.TensorSpec((None,), tf.int32)

        def step(parts: Sequence[Mapping[str, Any]]) -> tf.Tensor:
            if strategy.num_replicas_in_sync == 1:
                return model.train_on(parts[0])
            losses = strategy.run(lambda: model.train_on(parts[devices.replica() - own.start]))
            return strategy.experimental_local_results(losses)[0]  # the same on all devices

        self._step = tf.function(step, input_signature=[(signature,) * len(own)])

    def epoch(self, number: int, batches: Any) -> dict[str, Any]:
        """Trains one epoch and returns its measurements by name, see `fit`.

        Args:
            number: Number of the epoch, counted from 0.
            batches: Iterator over the batches of `Examples.dataset`.
        """
        hard = self._mine(number)
        began = waited_from = time.perf_counter()
        waited, examples, losses = 0.0, 0, []
        for step in range(self._examples.steps):
            _, users, parts = next(batches)
            waited += time.perf_counter() - waited_from
            if hard is not None:
                drawn = self._draw_hard(hard, np.asarray(users), number, step)
                parts = tuple({**part, "hard": drawn} for part in parts)
            loss = float(self._step(parts))
            if not math.isfinite(loss):
                raise TrainingError(
                    "the loss is not finite; lower training.learning_rate or raise training.temperature"
                )
            losses.append(loss)
            examples += len(users)
            self._progress.step(loss)
            waited_from = time.perf_counter()
        seconds = time.perf_counter() - began
        measured: dict[str, Any] = {
            "epoch": number + 1,
            "loss": float(np.mean(losses)),
            "temperature": float(np.exp(self._model.log_temperature)),
            "seconds": seconds,
            "examples_per_second": examples / seconds,
            "input_wait_share": waited / seconds,
        }
        self._model.fill_tables()
        if self._validate and self._workers.is_chief:
            self._copy_weights()
            measured |= {f"val_{name}": value for name, value in self._validate(self._towers).items()}
        return self._workers.of_chief(measured)

    def _mine(self, number: int) -> np.ndarray | None:
        """Mines hard negatives for each user before epoch `number`: [user_count, n] int32 catalogue rows.

        All are -1 (no item) before the first epoch. Returns None if the recipe has no hard negatives.
        """
        if not self._recipe.training.hard_negatives:
            return None
        user_count = len(self._dataset.user_ids)
        if number == 0:
            return np.full((user_count, _HARD_POOL), -1, dtype=np.int32)
        self._copy_weights()
        vectors = embed_items(self._plain[1], self._schemas, self._dataset)
        queries = np.zeros((user_count, *self._model.query_tower.output_shape[1:]), dtype=np.float32)
        for batch in self._examples.epoch(0):
            # The last target of a user in a batch has the newest query.
            queries[batch["user"]] = self._model.embed_queries(_tensors(batch), training=False).numpy()
        relevant = self._train.relevant
        known = np.split(relevant.items, relevant.starts(user_count)[1:-1])
        return mine_hard_negatives(queries, vectors, known, _HARD_POOL, _HARD_SKIP)

    def _copy_weights(self) -> None:
        for plain, tower in zip(self._plain, (self._model.query_tower, self._model.item_tower), strict=True):
            if plain is not tower:
                plain.set_weights(tower.get_weights())

    def _draw_hard(self, hard: np.ndarray, users: np.ndarray, number: int, step: int) -> np.ndarray:
        generator = np.random.default_rng((self._recipe.seed, number, step))
        count = self._recipe.training.hard_negatives
        return hard[generator.choice(users, count), generator.integers(0, hard.shape[1], count)]


def _tensors(batch: dict[str, Any]) -> dict[str, Any]:
    return tf.nest.map_structure(tf.convert_to_tensor, batch)


def _tower_variables(model: TwoTower) -> list[Any]:
    parts = (model.query_tower, model.item_tower, *model.text_models)
    both = [variable for part in parts for variable in part.variables]
    return list({id(variable): variable for variable in both}.values())
