"""Exports a text encoder as LiteRT file and checks it, because a conversion can succeed and lose the weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from retrieval.bundle.layout import EMBEDDING, SIGNATURE, TOKEN_IDS, TOKENIZER
from retrieval.inference.interpreter_pool import op_names
from retrieval.inference.text_encoder import LiteRtTextEncoder
from trainer.errors import ExportError
from trainer.quiet_tensorflow import quiet_stderr
from trainer.text.encoders import KerasText

MIN_COSINE = {"float32": 0.99999, "int8": 0.99}
"""Smallest allowed cosine between the exported and the trained vector of a text, by precision."""
_SIZES = {"float32": (0.9, 1.5), "int8": (0.2, 0.6)}
"""Smallest and largest file size as a share of the size of the weights in float32, by precision."""
_PROBES = ("wireless mouse", "Misérables, Les (1995)", "a " * 40, "x", "日本語 ☂ שלום", "1.5 m HDMI cable")


def export_text_encoder(
    encoder: KerasText, folder: Path, texts: Sequence[str]
) -> tuple[LiteRtTextEncoder, dict[str, float]]:
    """Writes tokenizer and LiteRT file of an encoder to the folder of a bundle, and checks the file.

    Args:
        encoder: Encoder to write, in the precision of its spec.
        folder: Folder of the bundle.
        texts: Real texts whose vectors are compared, in addition to a few difficult ones.

    Returns:
        The exported encoder, opened; and its ``min_cosine``, ``mean_cosine`` and ``size_bytes`` by name.

    Raises:
        ExportError: The file needs ops that are not built in, lacks weights, or returns NaN or different vectors.
    """
    spec = encoder.spec
    path = folder / spec.encoder_path
    path.parent.mkdir(parents=True)
    (path.parent / TOKENIZER).write_text(encoder.tokenizer.json_text, encoding="utf-8")
    try:
        path.write_bytes(_convert(encoder.model, spec.precision))
    except Exception as error:  # the converter raises an exception that is not a public class
        reason = str(error).strip().splitlines()[0][:300]
        raise ExportError(f"text encoder {spec.name} cannot be converted to built-in ops: {reason}") from error
    _check_ops(path)
    _check_size(path, encoder)
    with quiet_stderr():
        exported = LiteRtTextEncoder(folder, spec)
    probes = list(dict.fromkeys([*_PROBES, *texts]))
    expected = KerasText(spec, encoder.tokenizer, encoder.model).embed(probes)
    vectors = exported.embed(probes)
    single = np.concatenate([exported.embed([probe]) for probe in probes[:32]])
    if not (np.isfinite(vectors).all() and np.isfinite(single).all()):
        raise ExportError(f"{path.name} of {spec.name} returns NaN or infinity: the conversion lost the weights")
    has_text = np.linalg.norm(expected, axis=1) > 0
    cosines = np.sum(expected * vectors, axis=1)[has_text]  # [texts]
    single_cosines = np.sum(expected[: len(single)] * single, axis=1)[has_text[: len(single)]]
    worst = float(min(cosines.min(), single_cosines.min()))
    if not worst > MIN_COSINE[spec.precision]:
        raise ExportError(
            f"{path.name} of {spec.name} ({spec.precision}) differs from the trained encoder: cosine {worst:.6f}, "
            f"expected above {MIN_COSINE[spec.precision]}"
        )
    size_bytes = float(path.stat().st_size)
    return exported, {"min_cosine": worst, "mean_cosine": float(cosines.mean()), "size_bytes": size_bytes}


def _convert(model: keras.Model, precision: str) -> bytes:
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [{TOKEN_IDS: tf.TensorSpec((None, None), tf.int32, name=TOKEN_IDS)}]
    archive.add_endpoint(
        SIGNATURE, lambda inputs: {EMBEDDING: model(inputs[TOKEN_IDS], training=False)}, input_signature=signature
    )
    with tempfile.TemporaryDirectory(prefix="two-tower-text-") as temporary:
        archive.write_out(temporary, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(temporary, signature_keys=[SIGNATURE])
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def _check_ops(path: Path) -> None:
    with quiet_stderr():
        names = op_names(path)
    bad = sorted(n for n in names if n in ("VAR_HANDLE", "READ_VARIABLE", "CUSTOM") or n.startswith("Flex"))
    if bad:
        raise ExportError(f"{path.name} needs {', '.join(bad)}, which the services lack; only built-in ops are served")


def _check_size(path: Path, encoder: KerasText) -> None:
    size = path.stat().st_size
    float32_size = 4 * sum(int(np.prod(w.shape)) for w in encoder.model.weights)
    low, high = _SIZES[encoder.spec.precision]
    if encoder.spec.kind == "static":
        high = _SIZES["float32"][1]
    if not low * float32_size <= size <= high * float32_size + (1 << 20):
        raise ExportError(
            f"{path.name} of {encoder.spec.name} has {size} bytes, expected {low:g} to {high:g} of the "
            f"{float32_size} that its weights have as float32: the conversion lost or doubled them"
        )
