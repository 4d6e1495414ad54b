"""Builds the history encoder that a recipe names."""

from __future__ import annotations

from trainer.model.history.encoder import HistoryEncoder
from trainer.model.history.pooling import Mean, Positions, RankDecay
from trainer.model.history.recurrent import Recurrent
from trainer.model.history.transformer import Transformer
from trainer.recipe.feature_inputs import HistoryInput

_POOLINGS = {"mean": Mean, "positions": Positions, "rank_decay": RankDecay}


def build_encoder(spec: HistoryInput, name: str) -> HistoryEncoder:
    """Returns a new encoder for a history feature.

    Args:
        spec: History feature of a recipe.
        name: Name of the layer.
    """
    if spec.encoder == "transformer":
        return Transformer(spec.max_values, spec.encoder_dropout, spec.layers, spec.heads, name=name)
    if spec.encoder == "gru":
        return Recurrent(spec.max_values, spec.encoder_dropout, name=name)
    return _POOLINGS[spec.encoder](spec.max_values, spec.encoder_dropout, name=name, dtype="float32")
