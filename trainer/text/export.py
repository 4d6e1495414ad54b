"""Text encoders as LiteRT files, each gated: a conversion can succeed and lose the weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bundle.texts import TOKENIZER
from trainer.errors import ExportError
from trainer.export import OUTPUT, SIGNATURE
from trainer.quiet import quiet_stderr
from trainer.text.encoders import KerasText
from trainer.text.lite import INPUT, LiteText

MIN_COSINE = {"float32": 0.99999, "int8": 0.99}
"""Between what is served and what was trained, of the worst text."""
_SIZES = {"float32": (0.9, 1.5), "int8": (0.2, 0.6)}
"""Of a file, beside its parameters as float32; a static table may stay as it is."""
_PROBES = ("wireless mouse", "Misérables, Les (1995)", "a " * 40, "x", "日本語 ☂ שלום", "1.5 m HDMI cable")


def export_text_encoder(encoder: KerasText, folder: Path, texts: Sequence[str]) -> dict[str, float]:
    """Writes tokenizer and LiteRT file of an encoder to a bundle's folder; returns ``min_cosine`` and ``size_bytes``.

    Args:
        encoder: to write, with the precision that its spec says.
        folder: of the bundle.
        texts: real ones to compare the answers on, beside some that are hard.

    Raises:
        ExportError: the file needs ops that are not built in, lacks weights, answers NaN or answers otherwise.
    """
    spec = encoder.spec
    path = folder / spec.encoder_path
    path.parent.mkdir(parents=True)
    (path.parent / TOKENIZER).write_text(encoder.tokenizer.json_text, encoding="utf-8")
    try:
        path.write_bytes(_convert(encoder.model, spec.precision))
    except Exception as error:  # the converter raises its own, which is no public class
        reason = str(error).strip().splitlines()[0][:300]
        raise ExportError(f"text encoder {spec.name} cannot be converted to built-in ops: {reason}") from error
    _check_ops(path)
    _check_size(path, encoder)
    served = LiteText.open(folder, spec)
    probes = list(dict.fromkeys([*_PROBES, *texts]))
    expected = KerasText(spec, encoder.tokenizer, encoder.model).embed(probes)
    found = served.embed(probes)
    singly = np.concatenate([served.embed([probe]) for probe in probes[:32]])
    if not (np.isfinite(found).all() and np.isfinite(singly).all()):
        raise ExportError(f"{path.name} of {spec.name} answers NaN or infinity; its conversion lost the weights")
    full = np.linalg.norm(expected, axis=1) > 0
    cosines = np.sum(expected * found, axis=1)[full]
    alone = np.sum(expected[: len(singly)] * singly, axis=1)[full[: len(singly)]]
    worst = float(min(cosines.min(), alone.min()))
    if not worst > MIN_COSINE[spec.precision]:
        raise ExportError(
            f"{path.name} of {spec.name} ({spec.precision}) differs from the trained encoder: cosine {worst:.6f}, "
            f"expected above {MIN_COSINE[spec.precision]}"
        )
    return {
        "min_cosine": worst,
        "mean_cosine": float(cosines.mean()),
        "size_bytes": float(path.stat().st_size),
    }


def _convert(model: keras.Model, precision: str) -> bytes:
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [{INPUT: tf.TensorSpec((None, None), tf.int32, name=INPUT)}]
    archive.add_endpoint(
        SIGNATURE, lambda inputs: {OUTPUT: model(inputs[INPUT], training=False)}, input_signature=signature
    )
    with tempfile.TemporaryDirectory(prefix="two-tower-text-") as temporary:
        archive.write_out(temporary, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(temporary, signature_keys=[SIGNATURE])
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def _check_ops(path: Path) -> None:
    with quiet_stderr():
        interpreter = Interpreter(model_path=str(path))
    names = {op["op_name"] for op in interpreter._get_ops_details()}  # no public way to list them
    bad = sorted(n for n in names if n in ("VAR_HANDLE", "READ_VARIABLE", "CUSTOM") or n.startswith("Flex"))
    if bad:
        raise ExportError(f"{path.name} needs {', '.join(bad)}, which no service has; only built-in ops can be served")


def _check_size(path: Path, encoder: KerasText) -> None:
    size = path.stat().st_size
    full = 4 * sum(int(np.prod(w.shape)) for w in encoder.model.weights)
    low, high = _SIZES[encoder.spec.precision]
    if encoder.spec.kind == "static":
        high = _SIZES["float32"][1]
    if not low * full <= size <= high * full + (1 << 20):
        raise ExportError(
            f"{path.name} of {encoder.spec.name} has {size} bytes, expected {low:g} to {high:g} of the {full} that its "
            "weights have as float32: the conversion lost or doubled them"
        )
