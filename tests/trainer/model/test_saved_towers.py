"""Saved towers, also of earlier versions, load in a process that has not trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden"

LOAD = """
import sys
from pathlib import Path
from trainer.model.saved_towers import load_tower
print([load_tower(Path(path)).output_shape[0] for path in sys.argv[1:]])
"""


def test_item_towers_of_golden_bundles_load_in_a_new_process() -> None:
    paths = sorted(GOLDEN.glob("v1-*/item_tower.keras"))
    assert len(paths) == 4
    command = [sys.executable, "-c", LOAD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[None, None, None, None]\n", done.stderr[-2000:]
