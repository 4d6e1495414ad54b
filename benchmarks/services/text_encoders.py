"""Compares served text encoders with the Keras model: equality of the vectors, and time of one short text.

Encodes the titles of MovieLens-100k, and each of them with a typing error, with all-MiniLM-L6-v2: as the query tower
service does (tokenizer and LiteRT, float32 and int8) and with Keras. Then measures the time of one text of 16 tokens on
one thread, alternating between LiteRT float32, LiteRT int8, a static table, ONNX Runtime and the SavedModel. Exits with
1 if a float32 vector differs from Keras by more than 1e-4, or an int8 vector has a cosine below 0.99 with it. ONNX
Runtime is left out if the extra ``bench`` is not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.services.onnx_text import open_session, write_onnx
from retrieval.bundle.features.tokenizer import pad_token_ids
from retrieval.bundle.layout import TOKEN_IDS
from retrieval.inference.interpreter_pool import InterpreterPool
from trainer.data import sources
from trainer.quiet_tensorflow import import_tensorflow, quiet_stderr
from trainer.recipe import loading

_TOLERANCE, _MIN_COSINE = 1e-4, 0.99
_TOKENS = 16
_AT_ONCE = 64


def main() -> int:
    """Runs the measurement with the command line's arguments, prints its tables, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.services.text_encoders", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="number of timed calls of each encoder (default: 300)")
    arguments = parser.parse_args()
    import_tensorflow()
    import tensorflow as tf

    from trainer.publishing.text_export import export_text_encoder
    from trainer.recipe.feature_inputs import TextInput
    from trainer.text import checkpoints
    from trainer.text.building import build
    from trainer.text.encoders import KerasText
    from trainer.text.layers import static_encoder

    recipe, search = loading.load("movielens_100k"), loading.load("product_search")
    dataset = sources.read(recipe, sources.data_folder(recipe, recipe.name)).dataset
    titles = [title for title in dataset.item_column("title") if title]
    texts = list(
        dict.fromkeys([*titles, *(title[: len(title) // 2] + title[len(title) // 2 + 1 :] for title in titles)])
    )
    feature = TextInput("title", "text", "minilm", max_tokens=64)
    encoder = build([(feature, texts)], search.checkpoints)[feature]
    table = static_encoder(encoder.tokenizer.vocabulary_size, 256, encoder.spec.pad_id, "static")
    spec = dataclasses.replace(encoder.spec, name="static", width=256, kind="static")
    ways = {
        "LiteRT float32": encoder,
        "LiteRT int8": dataclasses.replace(encoder, spec=dataclasses.replace(encoder.spec, precision="int8")),
        "static table, 256 wide": KerasText(spec, encoder.tokenizer, table),
    }
    expected = encoder.embed(texts)
    ids = np.array([[101, *range(2000, 2000 + _TOKENS - 2), 102]], dtype=np.int32)
    calls: dict[str, Callable[[], Any]] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="two-tower-text-") as temporary:
        print("| served | worst component | worst cosine | file MB | memory of one more interpreter, MB |")
        print("|---|---|---|---|---|")
        for number, (name, way) in enumerate(ways.items()):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            with quiet_stderr():
                exported, figures = export_text_encoder(way, folder, texts[:50])
                pool, grown = _open_lite(folder / way.spec.encoder_path)
            found = exported.embed(texts)
            reference = expected if way.model is encoder.model else way.embed(texts)
            away, cosine = (
                np.abs(found - reference).max(),
                np.sum(found * reference, axis=1)[np.any(reference, axis=1)].min(),
            )
            failed |= cosine < _MIN_COSINE or (way.spec.precision == "float32" and away > _TOLERANCE)
            size = figures["size_bytes"] / 1e6
            print(f"| {name} | {away:.1e} | {cosine:.7f} | {size:.1f} | {grown / 1e6:.0f} |")
            calls[name] = lambda pool=pool: pool.run({TOKEN_IDS: ids})
        if find_spec("onnxruntime") and find_spec("onnx"):
            path = write_onnx(checkpoints.find("minilm", search.checkpoints), Path(temporary) / "encoder.onnx")
            session, grown = _open_onnx(path)
            found = np.concatenate([session.run(None, {"ids": i})[0] for i in _padded(encoder, texts)])
            away = np.abs(found - expected).max()
            cosine = np.sum(found * expected, axis=1)[np.any(expected, axis=1)].min()
            failed |= not away <= _TOLERANCE  # so written that NaN fails
            size = path.stat().st_size / 1e6
            print(f"| ONNX Runtime | {away:.1e} | {cosine:.7f} | {size:.1f} | {grown / 1e6:.0f} |")
            calls["ONNX Runtime"] = lambda: session.run(None, {"ids": ids.astype(np.int64)})[0]
        else:
            print("(no ONNX Runtime: install the extra bench)")
        saved = tf.saved_model.load(_save(encoder.model, Path(temporary) / "saved")).signatures["serve"]
        calls["SavedModel"] = lambda: saved(ids=tf.constant(ids))["embedding"].numpy()
        print(f"\n{len(texts):,} texts compared; one text of {_TOKENS} tokens, median of {arguments.rounds} in turn:\n")
        print("| way | ms | beside LiteRT float32 |\n|---|---|---|")
        times = _time(calls, arguments.rounds)
        base = float(np.median(times["LiteRT float32"]))
        for name, values in times.items():
            print(f"| {name} | {np.median(values):.3f} | {np.median(values) / base:.2f} |")
    return int(failed)


def _open_lite(path: Path) -> tuple[InterpreterPool, int]:
    """Returns a pool of one interpreter of a LiteRT file, and the memory that a second interpreter takes, in bytes."""
    ids = {TOKEN_IDS: np.full((1, _TOKENS), 2000, dtype=np.int32)}
    first = InterpreterPool(path, size=1)
    first.run(ids)
    before = psutil.Process().memory_info().rss
    second = InterpreterPool(path, size=1)
    second.run(ids)
    return first, psutil.Process().memory_info().rss - before


def _open_onnx(path: Path) -> tuple[Any, int]:
    """Returns a session of an ONNX file, and the memory that a second session takes, in bytes."""
    ids = {"ids": np.full((1, _TOKENS), 2000, dtype=np.int64)}
    first = open_session(path)
    first.run(None, ids)
    before = psutil.Process().memory_info().rss
    second = open_session(path)
    second.run(None, ids)
    return first, psutil.Process().memory_info().rss - before


def _padded(encoder: Any, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """Yields the padded token ids of all texts, batch by batch, in order: each [n, length] int64."""
    for start in range(0, len(texts), _AT_ONCE):
        rows = encoder.tokenizer.tokenize(texts[start : start + _AT_ONCE])
        yield pad_token_ids(rows, encoder.spec.pad_id).astype(np.int64)


def _save(model: Any, folder: Path) -> str:
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec((None, None), tf.int32, name="ids")]
    archive.add_endpoint("serve", lambda ids: {"embedding": model(ids, training=False)}, input_signature=signature)
    archive.write_out(str(folder), verbose=False)
    return str(folder)


def _time(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns the times of the calls of each function by name, [rounds] milliseconds.

    The functions are called alternately, so that other load of the machine slows them equally.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - began))
    return times


if __name__ == "__main__":
    sys.exit(main())
