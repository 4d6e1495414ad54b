"""Builds the text encoders of a recipe: reads checkpoints, and distils static tables."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retrieval.bundle.features.text import TextEncoderSpec
from trainer.data import download
from trainer.errors import TextError
from trainer.progress import SILENT, Progress
from trainer.recipe.feature_inputs import TextInput
from trainer.recipe.tables import Download
from trainer.text import checkpoints
from trainer.text.checkpoints import Checkpoint
from trainer.text.distillation import distil, weigh_by_idf
from trainer.text.encoders import KerasText
from trainer.text.layers import static_encoder, transformer_encoder
from trainer.text.vector_store import VectorStore

_VECTORS = "text_vectors"
"""Folder of the cached vectors, inside the folder of downloads."""

_SETTINGS = ("checkpoint", "mode", "max_tokens", "width", "learning_rate", "token_weights", "trained_layers",
             "precision")  # fmt: skip
"""Settings that features with a shared encoder have in common."""
_DISTILLATION_TOKENS = 64
"""Largest number of tokens of a text that a static table is learned from."""

_frozen: dict[tuple[str, str, Progress], KerasText] = {}
_distilled: dict[str, list[Any]] = {}


def build(
    columns: Iterable[tuple[TextInput, Sequence[str | None]]],
    downloads: Mapping[str, Download],
    progress: Progress = SILENT,
) -> dict[TextInput, KerasText]:
    """Returns the text encoder of each feature; features with the same settings share one.

    Args:
        columns: Text features with their texts in the training data.
        downloads: Checkpoints that the recipe downloads, by name.
        progress: Progress reporter of distillation, and of embedding with these encoders.

    Raises:
        TextError: A checkpoint cannot be used.
        DownloadError: A checkpoint cannot be downloaded.
    """
    groups: dict[tuple[Any, ...], list[tuple[TextInput, Sequence[str | None]]]] = {}
    for feature, column in columns:
        groups.setdefault(tuple(getattr(feature, name) for name in _SETTINGS), []).append((feature, column))
    encoders: dict[TextInput, KerasText] = {}
    for group in groups.values():
        texts = list(dict.fromkeys(text for _, column in group for text in column if text))
        encoder = _build(group[0][0], texts, downloads, progress)
        encoders.update({feature: encoder for feature, _ in group})
    return encoders


def _build(
    feature: TextInput, texts: Sequence[str], downloads: Mapping[str, Download], progress: Progress
) -> KerasText:
    checkpoint = checkpoints.find(feature.checkpoint, downloads)
    if feature.max_tokens > checkpoint.max_tokens:
        raise TextError(
            f"feature {feature.name}: max_tokens is {feature.max_tokens}, checkpoint {checkpoint.name!r} has positions "
            f"for {checkpoint.max_tokens}; lower it"
        )
    match feature.mode:
        case "frozen":
            return _frozen_encoder(feature, checkpoint, progress)
        case "finetune":
            return _finetuned_encoder(feature, checkpoint, progress)
        case "distilled":
            return _distilled_encoder(feature, checkpoint, texts, progress)


def _spec(feature: TextInput, checkpoint: Checkpoint) -> TextEncoderSpec:
    values = repr([getattr(feature, name) for name in _SETTINGS])
    settings = hashlib.sha256(f"{checkpoint.digest} {values}".encode()).hexdigest()[:8]
    plain = re.sub(r"[^a-z0-9]+", "-", checkpoint.folder.name.lower() + "-" + feature.mode).strip("-")[-60:].strip("-")
    return TextEncoderSpec(
        f"{plain}-{settings}",
        checkpoint.name,
        checkpoint.width,
        feature.max_tokens,
        checkpoint.pad_id,
        precision=feature.precision,
    )


def _frozen_encoder(feature: TextInput, checkpoint: Checkpoint, progress: Progress) -> KerasText:
    spec = _spec(feature, checkpoint)
    key = (checkpoint.digest, spec.name, progress)
    if key not in _frozen:  # cached, as it is the same in every training of this process
        model = transformer_encoder(checkpoint.backbone(), spec.pad_id, spec.name)
        model.trainable = False
        folder = download.cache_folder() / _VECTORS / f"{checkpoint.digest[:16]}-{spec.max_tokens}"
        tokenizer = checkpoint.tokenizer(spec.max_tokens)
        _frozen[key] = KerasText(spec, tokenizer, model, store=VectorStore(folder, spec.width), progress=progress)
    return _frozen[key]


def _finetuned_encoder(feature: TextInput, checkpoint: Checkpoint, progress: Progress) -> KerasText:
    spec = _spec(feature, checkpoint)
    backbone = checkpoint.backbone()
    layers = getattr(backbone, "transformer_layers", None)
    if layers is None:
        raise TextError(f"checkpoint {checkpoint.name!r}: its layers cannot be told apart; use mode frozen")
    trained = {id(layer) for layer in layers[-feature.trained_layers :]}
    for layer in backbone.layers:
        if feature.trained_layers < len(layers):
            layer.trainable = id(layer) in trained
        elif layer.name == "pooled_dense":  # BERT's pooler is not used, as its input is pooled here
            layer.trainable = False
    model = transformer_encoder(backbone, spec.pad_id, spec.name)
    return KerasText(
        spec, checkpoint.tokenizer(spec.max_tokens), model, feature.encoder_learning_rate, progress=progress
    )


def _distilled_encoder(
    feature: TextInput, checkpoint: Checkpoint, texts: Sequence[str], progress: Progress
) -> KerasText:
    # The first tokens of long texts suffice to learn the weights of tokens, and the teacher embeds them much faster.
    tokens = min(feature.max_tokens, _DISTILLATION_TOKENS)
    frozen = TextInput(feature.name, "text", feature.checkpoint, max_tokens=tokens)
    teacher, tokenizer = _frozen_encoder(frozen, checkpoint, progress), checkpoint.tokenizer(feature.max_tokens)
    spec = dataclasses.replace(_spec(feature, checkpoint), width=min(feature.width, checkpoint.width), kind="static")
    corpus = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    key = f"{spec.name} {corpus}"
    if key not in _distilled:  # cached, as it is the same in every training of this process
        by_idf = feature.token_weights == "idf"  # replaces the weights that training would learn
        student = distil(teacher, () if by_idf else texts, spec.width, spec.name)
        if by_idf:
            weigh_by_idf(student, tokenizer.tokenize(texts))
        _distilled[key] = student.get_weights()
    model = static_encoder(tokenizer.vocabulary_size, spec.width, spec.pad_id, spec.name)
    model.set_weights(_distilled[key])
    model.trainable = feature.encoder_learning_rate is not None
    return KerasText(spec, tokenizer, model, feature.encoder_learning_rate, progress=progress)
