"""Measures time and memory of index builds: ``python -m benchmarks.index.build --items 1000000 --trees 10``.

The vectors are memory-mapped from a file. Only anonymous memory counts, because the system can reclaim pages of files.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import print_table
from retrieval.index.build import build_file
from retrieval.index.registry import METRIC, STRUCTURES, open_index
from testbed.synthetic_vectors import make_data
from trainer.publishing import index_selection
from trainer.recipe.recipe import Index

_LOOK_EVERY_S = 0.05


def main() -> None:
    """Builds an index of each kind and prints a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.index.build", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--trees", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=["annoy", "faiss_ivf"], choices=STRUCTURES)
    parser.add_argument("--folder", type=Path, help="folder for the files (default: a temporary one)")
    arguments = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        np.save(Path(folder) / "vectors.npy", make_data(arguments.items, 1).vectors)
        vectors = np.load(Path(folder) / "vectors.npy", mmap_mode="r").view(np.ndarray)
        for kind in arguments.kinds:
            path = Path(folder) / kind
            settings = Index(kind=kind, trees=(arguments.trees,), links=(16,))
            parameters = index_selection.parameter_grid(settings, len(vectors), 1)[0]
            before = _anonymous_bytes()
            peak = _Peak()
            started = time.perf_counter()
            build_file(kind, parameters, vectors, path, peak.tell)
            build_s = time.perf_counter() - started
            highest = peak.stop()
            started = time.perf_counter()
            open_index(kind, METRIC, path, vectors)
            open_ms = (time.perf_counter() - started) * 1e3
            rows.append(
                [
                    f"{kind}, {next(iter(parameters))} {next(iter(parameters.values()))}",
                    f"{build_s:,.0f}",
                    f"{path.stat().st_size / len(vectors):,.0f}",
                    f"{(highest - before) / len(vectors):,.0f}",
                    f"{open_ms:,.0f}",
                ]
            )
    head = ["index", "build s", "bytes an item, file", "bytes an item, memory", "open ms"]
    print_table(f"building over {arguments.items:,} vectors", head, rows)


class _Peak:
    """Peak of the process's anonymous memory during a build, sampled by another thread."""

    def __init__(self) -> None:
        self._highest = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def tell(self, step: str) -> None:
        """Prints the name of the current step, over the previous one."""
        print(f"\r{step:60}", end="", flush=True)

    def stop(self) -> int:
        """Stops sampling, and returns the peak in bytes."""
        self._over.set()
        self._thread.join()
        print(f"\r{'':60}\r", end="")
        return self._highest

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._highest = max(self._highest, _anonymous_bytes())


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no RssAnon")


if __name__ == "__main__":
    main()
