"""Writes a BERT checkpoint as an ONNX model, to compare ONNX Runtime with LiteRT.

The graph is built from the weights, operation by operation, so that neither a converter nor PyTorch is needed. It
computes unit vectors from token ids by mean pooling, as `trainer.text.layers.transformer_encoder` does, with the tanh
form of GELU.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from trainer.text.checkpoints import Checkpoint

_OPSET = 20
"""ONNX operator set; the first that has GELU as one operation."""


class _Graph:
    """An ONNX graph in the making: its operations and weights. Every method returns the name of the tensor it adds."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, values: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def dense(self, values: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        return self.add("Add", self.add("MatMul", values, self.weight(kernel.T)), self.weight(bias))


def write_onnx(checkpoint: Checkpoint, path: Path) -> Path:
    """Writes a checkpoint as an ONNX file, and returns `path`.

    The model has the input ``ids``, [n, length] int64 token ids, and the output ``embedding``, [n, width] float32, unit
    length.

    Args:
        checkpoint: checkpoint of a BERT model; variants such as RoBERTa are not supported.
        path: file to write.
    """
    import onnx
    from onnx import TensorProto, helper

    weights, graph, eps = load_file(checkpoint.folder / "model.safetensors"), _Graph(), 1e-12
    heads, width = checkpoint.config["num_attention_heads"], checkpoint.config["hidden_size"]

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        return weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]

    def normalise(values: str, prefix: str) -> str:
        scale, shift = part(prefix)
        return graph.add("LayerNormalization", values, graph.weight(scale), graph.weight(shift), epsilon=eps)

    no_token = graph.add("Equal", "ids", graph.weight(checkpoint.pad_id, np.int64))
    mask = graph.add("Cast", graph.add("Not", no_token), to=TensorProto.FLOAT)  # [n, length]
    axes = graph.weight([1, 2], np.int64)
    hidden = graph.add("Mul", graph.add("Cast", no_token, to=TensorProto.FLOAT), graph.weight(-1e9))
    hidden = graph.add("Unsqueeze", hidden, axes)  # [n, 1, 1, length]
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    length = graph.add("Shape", "ids", start=1, end=2)
    zero, one, last = (graph.weight([value], np.int64) for value in (0, 1, -1))
    states = graph.add("Gather", graph.weight(weights["embeddings.word_embeddings.weight"]), "ids")
    states = graph.add("Add", states, graph.add("Slice", graph.weight(positions), zero, length, zero))
    states = normalise(states, "embeddings.LayerNorm")  # [n, length, width]
    split, joined = graph.weight([0, 0, heads, width // heads], np.int64), graph.weight([0, 0, width], np.int64)
    shrink = graph.weight(1.0 / math.sqrt(width // heads))
    for number in range(checkpoint.config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            graph.add(
                "Transpose",
                graph.add("Reshape", graph.dense(states, *part(f"{layer}.attention.self.{name}")), split),
                perm=order,
            )
            for name, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3)))
        )
        scores = graph.add("Add", graph.add("Mul", graph.add("MatMul", query, key), shrink), hidden)
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)  # [n, heads, length, width / heads]
        mixed = graph.add("Reshape", graph.add("Transpose", mixed, perm=(0, 2, 1, 3)), joined)
        mixed = graph.dense(mixed, *part(f"{layer}.attention.output.dense"))
        states = normalise(graph.add("Add", mixed, states), f"{layer}.attention.output.LayerNorm")
        wide = graph.add("Gelu", graph.dense(states, *part(f"{layer}.intermediate.dense")), approximate="tanh")
        wide = graph.dense(wide, *part(f"{layer}.output.dense"))
        states = normalise(graph.add("Add", wide, states), f"{layer}.output.LayerNorm")
    weighted = graph.add("Unsqueeze", mask, last)  # [n, length, 1]
    total = graph.add("ReduceSum", graph.add("Mul", states, weighted), one, keepdims=0)  # [n, width]
    count = graph.add("Max", graph.add("ReduceSum", weighted, one, keepdims=0), graph.weight(1.0))
    mean = graph.add("Div", total, count)
    square = graph.add("Max", graph.add("ReduceSumSquare", mean, one, keepdims=1), graph.weight(1e-12))
    norm = graph.add("Sqrt", square)  # [n, 1]
    graph.nodes.append(helper.make_node("Div", [mean, norm], ["embedding"]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            checkpoint.name,
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", width])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def open_session(path: Path) -> Any:
    """Returns an ONNX Runtime session of the model file `path`, on one thread, with all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
