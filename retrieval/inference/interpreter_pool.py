"""A pool of LiteRT interpreters. Only this module imports LiteRT."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from retrieval.bundle.layout import EMBEDDING, SIGNATURE


class InterpreterPool:
    """Interpreters of one model with the signature ``serve`` and the output ``embedding``. Safe for several threads.

    An interpreter runs one call at a time, so each concurrent call takes one from the pool.

    Attributes:
        inputs: Shape of one row, and type, of each input by name.
        outputs: Shape of one row of each output by name.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Loads the interpreters.

        Args:
            path: LiteRT file, already verified.
            size: number of calls that may run at once; each further call first loads another interpreter.

        Raises:
            ValueError, RuntimeError: LiteRT cannot use the file.
        """
        self._path = path
        self._idle = deque(_Interpreter(path) for _ in range(size))
        self.inputs = self._idle[0].inputs
        self.outputs = self._idle[0].outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Runs the model on a batch, and returns its output ``embedding``: [batch, ...] float32, owned by the caller.

        Args:
            inputs: all inputs of the model by name, each [batch, ...], of the types in `self.inputs`.
        """
        try:
            interpreter = self._idle.pop()
        except IndexError:
            interpreter = _Interpreter(self._path)
        try:
            return interpreter.run(inputs)
        finally:
            self._idle.append(interpreter)


class _Interpreter:
    """One interpreter, for one call at a time. It allocates tensors only when the shape of the batch changes."""

    def __init__(self, path: Path) -> None:
        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
        # LiteRT's signature runner allocates at each call, so only its names and tensor indices are used. It must be
        # released before the interpreter is resized.
        signature = self._interpreter.get_signature_runner(SIGNATURE)
        inputs, outputs = signature.get_input_details(), signature.get_output_details()
        self.inputs = {name: (list(detail["shape"][1:]), detail["dtype"]) for name, detail in inputs.items()}
        self.outputs = {name: list(detail["shape"][1:]) for name, detail in outputs.items()}
        self._input_indices = {name: int(detail["index"]) for name, detail in inputs.items()}
        self._output_index = int(outputs[EMBEDDING]["index"]) if EMBEDDING in outputs else -1
        self._shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Runs the model on a batch, and returns a copy of its output ``embedding``: [batch, ...] float32.

        Args:
            inputs: all inputs of the model by name, each [batch, ...].
        """
        indices = self._input_indices
        shapes = [array.shape for array in inputs.values()]
        if shapes != self._shapes:
            self._shapes = []  # stays empty if the next lines fail
            for name, array in inputs.items():
                self._interpreter.resize_tensor_input(indices[name], array.shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, array in inputs.items():
            self._interpreter.set_tensor(indices[name], array)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output_index)


def op_names(path: Path) -> set[str]:
    """Returns the names of the operations in a LiteRT file."""
    interpreter: Any = Interpreter(model_path=str(path))
    return {op["op_name"] for op in interpreter._get_ops_details()}  # there is no public way to list them
