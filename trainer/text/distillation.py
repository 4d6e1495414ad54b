"""Distils a frozen text encoder into a static one: a table with one vector for each token, averaged over a text.

The table starts with the encoder's vector of each single token, projected to the principal directions (Tulkens & van
Dongen 2024, "Model2Vec"). It is then trained so that the mean of a text's token vectors is near the encoder's vector of
the text, which teaches it the weight of each token.
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

_MAX_TEXTS = 50_000
_BATCH = 512
_STEPS = 600
_LEARNING_RATE = 0.01


def distil(teacher: KerasText, texts: Sequence[str], width: int, name: str, seed: int = 0) -> keras.Model:
    """Returns a static encoder that imitates a teacher: a Keras model, [n, length] int32 to [n, width] float32.

    Args:
        teacher: Frozen encoder, whose progress reporter is used.
        texts: Distinct texts of the training data; at most 50,000 of them are used, drawn at random. Without texts the
            vectors are those of single tokens.
        width: Length of the vectors, at most that of the teacher.
        name: Name of the model.
        seed: Seed of the sample and of the batches.
    """
    spec, generator = teacher.spec, np.random.default_rng(seed)
    if len(texts) > _MAX_TEXTS:
        texts = [texts[int(row)] for row in generator.choice(len(texts), _MAX_TEXTS, replace=False)]
    tokens = teacher.tokenizer.vocabulary_size
    special = teacher.tokenizer.special_ids
    alone = [[*special[:1], token, *special[1:]] for token in range(tokens)]
    with teacher.progress.counting("embedding tokens", tokens) as advance:
        single = embed_rows(alone, spec, lambda ids: teacher.run(ids).numpy(), advance)
    vectors = teacher.embed(texts)
    both = np.concatenate([single, vectors])
    # The mean is not subtracted, as that would change dot products.
    directions = np.linalg.eigh(both.T @ both)[1][:, ::-1][:, :width]  # [teacher width, width]
    if width == spec.width:
        directions = np.eye(width, dtype=np.float32)  # keeps the space of the teacher
    student = static_encoder(tokens, width, spec.pad_id, name)
    student.layers[1].set_weights([(single @ directions).astype(np.float32)])
    _fit(student, teacher, texts, (vectors @ directions).astype(np.float32), generator)
    return student


def weigh_by_idf(student: keras.Model, rows: Sequence[Sequence[int]]) -> None:
    """Scales the vector of each token of a static encoder to the length of its inverse document frequency.

    That is ``log(n / texts with the token)``, and ``log(n)`` for a token without texts (Spärck Jones 1972, "A
    statistical interpretation of term specificity and its application in retrieval"). The mean of a text is then
    decided by its rare words, and a token of every text has no weight.

    Args:
        student: Static encoder made by `distil`.
        rows: Token ids of each of the n texts.
    """
    (table,) = student.layers[1].get_weights()  # [tokens, width]
    text_counts = np.bincount([token for row in rows for token in set(row)], minlength=len(table))
    idf = np.log(max(len(rows), 2) / np.maximum(text_counts, 1))
    lengths = np.maximum(np.linalg.norm(table, axis=1), 1e-9)
    student.layers[1].set_weights([(table * (idf / lengths)[:, None]).astype(np.float32)])


def _fit(
    student: keras.Model, teacher: KerasText, texts: Sequence[str], targets: np.ndarray, generator: np.random.Generator
) -> None:
    """Trains the token table of a static encoder so that its text vectors get a high cosine similarity to `targets`.

    `targets` [n, width] float32 are the teacher's vectors of the n texts. The teacher also tokenises the texts, and its
    progress reporter is used. `generator` draws the batches.
    """
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
    def step(ids: tf.Tensor, batch_targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = 1.0 - tf.reduce_mean(
                tf.reduce_sum(static_vectors(student, ids, teacher.spec.pad_id) * batch_targets, axis=-1)
            )
        variables = student.trainable_variables
        optimizer.apply([tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)], variables)

    with teacher.progress.counting("distilling", steps * _BATCH) as advance:
        for _ in range(steps):
            batch = generator.integers(0, len(texts), _BATCH)
            step(pad_token_ids([rows[row] for row in batch], teacher.spec.pad_id), targets[batch])
            advance(_BATCH)
