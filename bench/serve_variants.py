"""The services with another handler, for comparison: ``python -m bench.serve_variants VARIANT SERVICE FLAG …``.

| variant     | what it does                                                                              |
|-------------|-------------------------------------------------------------------------------------------|
| echo        | the same server with the same bundle open; the request, as a message, is the response too |
| saved_model | the query tower runs TensorFlow's SavedModel of the same bundle in the place of LiteRT    |
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ann_service import assembly as ann_assembly
from ann_service import servicer as ann_servicer
from ann_service.config import AnnConfig
from ann_service.servicer import AnnServicer
from inference.interpreter_pool import InterpreterPool
from query_tower_service import assembly as query_tower_assembly
from query_tower_service import servicer as query_tower_servicer
from query_tower_service.config import QueryTowerConfig
from query_tower_service.servicer import QueryTowerServicer
from serving.program import run_program


def echo() -> None:
    """Lets both services answer with what they are asked."""
    from bench.echo import add_echo  # after the services, which say how gRPC is to run

    QueryTowerServicer.add_to = lambda _, server: add_echo(server, query_tower_servicer.SERVICE_NAME)
    AnnServicer.add_to = lambda _, server: add_echo(server, ann_servicer.SERVICE_NAME)


def saved_model() -> None:
    """Lets the query tower run the SavedModel, which lies beside the LiteRT file."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    make = InterpreterPool.__init__

    def init(pool: Any, path: Path, size: int) -> None:
        make(pool, path, size)
        pool.loaded = tf.saved_model.load(str(path.with_suffix("")))
        pool.signature = pool.loaded.signatures["serve"]

    def run(pool: Any, inputs: Any) -> Any:
        return pool.signature(**{name: tf.constant(array) for name, array in inputs.items()})["embedding"].numpy()

    InterpreterPool.__init__ = init
    InterpreterPool.run = run


_VARIANTS = {"echo": echo, "saved_model": saved_model}
_PROGRAMS: dict[str, tuple[type, Any]] = {
    "ann_service": (AnnConfig, ann_assembly.assemble),
    "query_tower_service": (QueryTowerConfig, query_tower_assembly.assemble),
}

if __name__ == "__main__":
    _VARIANTS[sys.argv[1]]()
    sys.exit(run_program(sys.argv[2], __doc__ or "", *_PROGRAMS[sys.argv[2]], sys.argv[3:]))
