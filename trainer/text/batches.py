"""Embeds many texts in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from retrieval.bundle.features.text import TextEncoderSpec
from retrieval.bundle.features.tokenizer import pad_token_ids

_BATCH_TOKENS = 8192
"""Largest number of tokens of a batch, which bounds its memory."""


def embed_rows(
    rows: Sequence[Sequence[int]],
    spec: TextEncoderSpec,
    run: Callable[[np.ndarray], np.ndarray],
    advance: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Returns the vectors of token ids: [n, width] float32, unit length, zeros for an empty row.

    Rows of similar length share a batch, so that little of it is padding.

    Args:
        rows: Token ids of each text.
        spec: Specification of the encoder.
        run: Function that embeds a batch, [m, length] int32 to [m, width] float32.
        advance: Function that is called after each batch with its number of rows.
    """
    vectors = np.zeros((len(rows), spec.width), dtype=np.float32)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    order = np.argsort(-lengths, kind="stable")[: int((lengths > 0).sum())]
    start = 0
    while start < len(order):
        size = max(1, _BATCH_TOKENS // int(lengths[order[start]]))
        batch = order[start : start + size]
        vectors[batch] = run(pad_token_ids([rows[row] for row in batch], spec.pad_id))
        start += size
        advance(len(batch))
    return vectors
