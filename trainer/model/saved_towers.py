"""Reads towers that a training saved as ``.keras`` files.

Keras finds the classes of layers by their registered names, so a process has to import all of these classes before it
reads a tower. Importing this module imports them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from trainer.model import prior_layers, towers

LAYER_MODULES = (towers, prior_layers)
"""Modules that define layers of towers, directly or in modules that they import."""


def load_tower(path: Path) -> keras.Model:
    """Returns the tower that is saved in a ``.keras`` file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file does not hold a tower of this version.
        TypeError: The file does not hold a tower of this version.
    """
    tower: Any = keras.saving.load_model(path, compile=False)
    return tower
