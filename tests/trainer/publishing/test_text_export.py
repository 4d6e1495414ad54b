"""Export of text encoders: the exported file gives the same vectors, or the export fails; cache of text vectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from retrieval.bundle.features.text import TextEncoderSpec
from retrieval.bundle.features.tokenizer import Tokenizer
from tests.trainer.text.checkpoints import VOCABULARY, write_checkpoint
from tests.trainer.world import KERAS_AND_NUMPY
from trainer.errors import ExportError, TextError
from trainer.model.trained_texts import LayeredAdamW
from trainer.publishing import text_export
from trainer.recipe.feature_inputs import TextInput
from trainer.text import checkpoints
from trainer.text.building import build
from trainer.text.encoders import KerasText
from trainer.text.layers import static_encoder
from trainer.text.vector_store import VectorStore

pytestmark = pytest.mark.filterwarnings(KERAS_AND_NUMPY)

TEXTS = [
    f"{colour} {kind} {at}" for at in range(5) for colour in ("black", "red") for kind in ("mouse", "cable", "bag")
]


def static(folder: Path, width: int = 8) -> KerasText:
    checkpoint = write_checkpoint(folder)
    spec = TextEncoderSpec("words", "tiny", width, 16, 0, "static")
    tokenizer = Tokenizer((checkpoint / "tokenizer.json").read_text(), 16)
    keras.utils.set_random_seed(3)
    return KerasText(spec, tokenizer, static_encoder(len(VOCABULARY), width, 0, "words"))


def test_a_static_text_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    encoder = static(tmp_path / "checkpoint")
    table = encoder.model.get_weights()[0]
    ids = [VOCABULARY.index(word) for word in ("[CLS]", "red", "cable", "[SEP]")]
    mean = table[ids].mean(axis=0)
    np.testing.assert_allclose(encoder.embed(["red cable"])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_int8_is_smaller_and_near(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", width=64)  # small weights would stay as they are
    feature = TextInput("title", "text", str(folder), mode="finetune", max_tokens=16)
    encoder = build([(feature, TEXTS)], {})[feature]
    _, full = text_export.export_text_encoder(encoder, tmp_path / "full", TEXTS)
    small = dataclasses.replace(encoder, spec=dataclasses.replace(encoder.spec, precision="int8"))
    _, found = text_export.export_text_encoder(small, tmp_path / "small", TEXTS)
    assert full["min_cosine"] > 0.99999
    assert 0.99 < found["min_cosine"] < full["min_cosine"]
    assert found["size_bytes"] < 0.6 * full["size_bytes"]


@pytest.mark.parametrize(
    ("weight", "message"), [(1.0, r"differs from the trained encoder: cosine"), (np.nan, "returns NaN or infinity")]
)
def test_an_export_with_other_vectors_is_refused(
    weight: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = static(tmp_path / "checkpoint")
    wrong = static_encoder(len(VOCABULARY), 8, 0, "words")
    wrong.set_weights([np.full((len(VOCABULARY), 8), weight)])
    monkeypatch.setattr(text_export, "_convert", lambda _, precision, real=text_export._convert: real(wrong, precision))
    with pytest.raises(ExportError, match=message):
        text_export.export_text_encoder(encoder, tmp_path / "bundle", TEXTS)


def test_an_export_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, empty = static(tmp_path / "checkpoint", 4096), static(tmp_path / "other", 8)
    monkeypatch.setattr(
        text_export, "_convert", lambda model, precision, real=text_export._convert: real(empty.model, precision)
    )
    with pytest.raises(ExportError, match="the conversion lost or doubled them"):
        text_export.export_text_encoder(encoder, tmp_path / "bundle", TEXTS)


def test_an_op_that_no_service_has_is_refused(tmp_path: Path) -> None:
    class Flex(keras.layers.Layer):
        def call(self, vectors):
            return tf.math.bessel_i0(vectors)  # LiteRT has none

    encoder = static(tmp_path / "checkpoint")
    wrong = keras.Model(encoder.model.input, Flex()(encoder.model.output))
    with pytest.raises(ExportError, match="cannot be converted"):
        text_export.export_text_encoder(dataclasses.replace(encoder, model=wrong), tmp_path / "bundle", TEXTS)


def test_vectors_are_kept_and_found_by_another_process(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "store", 2)
    store.add(["a", "b"], np.array([[1, 2], [3, 4]], "f"))
    store.add(["ä"], np.array([[5, 6]], "f"))
    again = VectorStore(tmp_path / "store", 2)
    assert (again.find(["b", "x"]) >= 0).tolist() == [True, False]
    assert again.take(again.find(["ä", "a", "b"])).tolist() == [[5, 6], [1, 2], [3, 4]]


@pytest.mark.parametrize("content", [b"", b"PK nonsense", None])
def test_a_damaged_cache_is_named(content: bytes | None, tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "store", 2)
    store.add(["a"], np.array([[1, 2]], "f"))
    (path,) = (tmp_path / "store").glob("*.npz")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextError, match=rf"{path.name} is damaged .* remove it"):
        VectorStore(tmp_path / "store", 2 if content is not None else 3)


def test_a_checkpoint_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(TextError, match="is of family 'gpt2', expected one of bert, distilbert, roberta"):
        checkpoints.find(str(folder), {})
    whole = write_checkpoint(tmp_path / "whole")
    with pytest.raises(TextError, match=r"max_tokens is 33, checkpoint .* has positions for 32; lower it"):
        build([(TextInput("title", "text", str(whole), max_tokens=33), TEXTS)], {})
    (whole / "model.safetensors").unlink()
    with pytest.raises(TextError, match=r"holds no \*\.safetensors"):
        checkpoints.find(str(whole), {})


def test_each_variable_has_its_learning_rate() -> None:
    first, second = (keras.Variable([1.0, 1.0], name=name) for name in ("first", "second"))
    optimizer = LayeredAdamW(0.1, {id(second): 0.001}, 0.1, weight_decay=0.0)
    optimizer.build([first, second])
    optimizer.apply([tf.constant([2.0, -2.0])] * 2, [first, second])
    # The first step of Adam is the learning rate against the sign of the gradient (Kingma & Ba 2015, algorithm 1).
    np.testing.assert_allclose(first.numpy(), [0.9, 1.1], atol=1e-4)
    np.testing.assert_allclose(second.numpy(), [0.999, 1.001], atol=1e-6)
