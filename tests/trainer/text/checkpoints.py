"""Tiny text checkpoints in the form of Hugging Face's, with random weights, and a BERT in NumPy to compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = [
    "the", "film", "title", "new", "old", "comedy", "drama", "horror", "western", "mouse", "keyboard", "cable",
    "wireless", "hdmi", "laptop", "bag", "black", "white", "red", "##s", "##ing", "##less", "miserable", "les", "usb",
    *"1234567890abcdef,.()-", "##a", "##b", "##c", "##0", "##1", "##2", "##3",
]  # fmt: skip
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
WIDTH, LAYERS, HEADS, POSITIONS = 16, 2, 2, 32

_PARTS = {
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "intermediate.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
                   "ffn.lin1", "ffn.lin2", "sa_layer_norm", "output_layer_norm"),
}  # fmt: skip
_PARTS["roberta"] = _PARTS["bert"]
_PREFIX = {"bert": "", "distilbert": "distilbert.", "roberta": "roberta."}
_LAYER = {"bert": "encoder.layer", "distilbert": "distilbert.transformer.layer", "roberta": "roberta.encoder.layer"}


def write_checkpoint(folder: Path, family: str = "bert", seed: int = 0, width: int = WIDTH) -> Path:
    """Writes a checkpoint and returns its folder."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return generator.normal(0.0, 0.3, shape).astype(np.float32)

    embeddings = f"{_PREFIX[family]}embeddings"
    pad_id = 1 if family == "roberta" else 0
    positions = POSITIONS + (pad_id + 1 if family == "roberta" else 0)
    weights = {
        f"{embeddings}.word_embeddings.weight": draw(len(VOCABULARY), width),
        f"{embeddings}.position_embeddings.weight": draw(positions, width),
        f"{embeddings}.LayerNorm.weight": 1.0 + draw(width),
        f"{embeddings}.LayerNorm.bias": draw(width),
    }
    if family == "bert":
        weights |= {"embeddings.token_type_embeddings.weight": draw(2, width)}
        weights |= {"pooler.dense.weight": draw(width, width), "pooler.dense.bias": draw(width)}
    shapes = [(width, width)] * 4 + [(2 * width, width), (width, 2 * width), (width,), (width,)]
    for layer in range(LAYERS):
        for part, shape in zip(_PARTS[family], shapes, strict=True):
            prefix = f"{_LAYER[family]}.{layer}.{part}"
            weights[f"{prefix}.weight"] = draw(*shape) if len(shape) == 2 else 1.0 + draw(*shape)
            weights[f"{prefix}.bias"] = draw(shape[0])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "bert": {
            "hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "intermediate_size": 2 * width, "hidden_dropout_prob": 0.1, "type_vocab_size": 2,
        },
        "distilbert": {"dim": width, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 2 * width, "dropout": 0.1},
    }  # fmt: skip
    own = config["distilbert" if family == "distilbert" else "bert"]
    own |= {"model_type": family, "vocab_size": len(VOCABULARY), "max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps({**own, "pad_token_id": pad_id, "hidden_act": "gelu"}))
    _tokenizer(pad_id).save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return folder


def _tokenizer(pad_id: int) -> Tokenizer:
    words = list(VOCABULARY)
    words[0], words[pad_id] = words[pad_id], words[0]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.enable_padding(length=20)  # as some checkpoints ship it: serving must not take it over
    return tokenizer


def bert(folder: Path, ids: list[int]) -> np.ndarray:
    """Returns [width] float32, unit length: the mean of the last states of one text (Devlin et al. 2019)."""
    w = load_file(folder / "model.safetensors")
    config: Mapping[str, int] = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    states = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    states = _norm(states + w["embeddings.token_type_embeddings.weight"][0], w, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        query, key, value = (_dense(states, w, f"{prefix}attention.self.{n}") for n in ("query", "key", "value"))
        size = states.shape[1] // heads
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            logits = query[:, part] @ key[:, part].T / math.sqrt(size)
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            mixed.append(share / share.sum(axis=1, keepdims=True) @ value[:, part])
        attended = _dense(np.concatenate(mixed, axis=1), w, f"{prefix}attention.output.dense")
        states = _norm(states + attended, w, f"{prefix}attention.output.LayerNorm")
        wide = _dense(states, w, f"{prefix}intermediate.dense")
        wide = wide * 0.5 * (1.0 + np.vectorize(math.erf)(wide / math.sqrt(2.0)))
        states = _norm(states + _dense(wide, w, f"{prefix}output.dense"), w, f"{prefix}output.LayerNorm")
    mean = states.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _dense(states: np.ndarray, w: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return states @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(states: np.ndarray, w: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    centred = states - states.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-12)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
