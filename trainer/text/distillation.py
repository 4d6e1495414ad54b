"""A vector for each token, learned from a frozen encoder: the mean of a text's vectors is near what that makes of it.

Start: each token embedded alone, on its principal directions (Tulkens & van Dongen 2024, "Model2Vec"). Then the table
is fitted to the encoder's vectors of real texts, which teaches it what a token weighs among others.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from retrieval.bundle.features.tokenizer import pad_token_ids
from trainer.text.batches import embed_rows
from trainer.text.encoders import KerasText
from trainer.text.layers import static_encoder, static_vectors

_MOST_TEXTS = 50_000
_BATCH = 512
_STEPS = 600
_LEARNING_RATE = 0.01


def distil(teacher: KerasText, texts: Sequence[str], width: int, name: str, seed: int = 0) -> keras.Model:
    """Returns a static encoder of `width`, [n, length] int32 to [n, width] float32.

    Args:
        teacher: the frozen encoder; the work is reported to its progress.
        texts: distinct, of those that it will meet; of many, a sample is taken. None at all: each token stays as it
            is alone.
        width: at most that of the teacher.
        name: of the model.
        seed: of the sample and the order.
    """
    spec, generator = teacher.spec, np.random.default_rng(seed)
    if len(texts) > _MOST_TEXTS:
        texts = [texts[int(row)] for row in generator.choice(len(texts), _MOST_TEXTS, replace=False)]
    tokens = teacher.tokenizer.vocabulary_size
    around = teacher.tokenizer.special_ids
    alone = [[*around[:1], token, *around[1:]] for token in range(tokens)]
    with teacher.progress.counting("embedding tokens", tokens) as advance:
        single = embed_rows(alone, spec, lambda ids: teacher.run(ids).numpy(), advance)
    vectors = teacher.embed(texts)
    both = np.concatenate([single, vectors])
    # Without taking the mean off: dot products are to stay what they are.
    directions = np.linalg.eigh(both.T @ both)[1][:, ::-1][:, :width]  # [teacher width, width]
    if width == spec.width:
        directions = np.eye(width, dtype=np.float32)  # the teacher's own space
    student = static_encoder(tokens, width, spec.pad_id, name)
    student.layers[1].set_weights([(single @ directions).astype(np.float32)])
    _fit(student, teacher, texts, (vectors @ directions).astype(np.float32), generator)
    return student


def weigh_by_idf(student: keras.Model, rows: Sequence[Sequence[int]]) -> None:
    """Gives each token's vector of a static encoder the length ``log(n / texts with it)``; what no text holds, log(n).

    The mean of a text is then as in word search: its rare words decide, and what stands in every text counts nothing
    (Spärck Jones 1972, "A statistical interpretation of term specificity and its application in retrieval").

    Args:
        student: of `distil`.
        rows: token ids of the n texts that count.
    """
    (table,) = student.layers[1].get_weights()  # [tokens, width]
    holding = np.bincount([token for row in rows for token in set(row)], minlength=len(table))
    idf = np.log(max(len(rows), 2) / np.maximum(holding, 1))
    lengths = np.maximum(np.linalg.norm(table, axis=1), 1e-9)
    student.layers[1].set_weights([(table * (idf / lengths)[:, None]).astype(np.float32)])


def _fit(
    student: keras.Model, teacher: KerasText, texts: Sequence[str], targets: np.ndarray, generator: np.random.Generator
) -> None:
    """Fits the table to unit-length `targets` [n, width] of `texts` [n], by the cosine."""
    if not texts:
        return
    targets = targets / np.maximum(np.linalg.norm(targets, axis=1, keepdims=True), 1e-9)
    rows = teacher.tokenizer.tokenize(texts)
    steps = min(_STEPS, 20 * -(-len(texts) // _BATCH))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps))
    optimizer.build(student.trainable_variables)

    @tf.function(
        input_signature=[tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, targets.shape[1]), tf.float32)]
    )
    def step(ids: tf.Tensor, wanted: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = 1.0 - tf.reduce_mean(
                tf.reduce_sum(static_vectors(student, ids, teacher.spec.pad_id) * wanted, axis=-1)
            )
        variables = student.trainable_variables
        optimizer.apply([tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)], variables)

    with teacher.progress.counting("distilling", steps * _BATCH) as advance:
        for _ in range(steps):
            batch = generator.integers(0, len(texts), _BATCH)
            step(pad_token_ids([rows[row] for row in batch], teacher.spec.pad_id), targets[batch])
            advance(_BATCH)
