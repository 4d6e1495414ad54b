"""The errors of the trainer, whose messages are for the person who runs it.

TrainerError
├── RecipeError       the recipe is wrong; names the key
├── DataError         a table is wrong; names file, column and row
├── DownloadError     data cannot be downloaded, or differs from what the recipe expects
├── TextError         a text checkpoint cannot be used; names it
├── TrainingError     the training failed, for instance because the loss is not finite
├── RunError          a run folder or another argument of a command cannot be used
└── ExportError       an exported model or an index cannot be written, or does not pass its checks
"""


class TrainerError(Exception):
    """Base of every error of this package. The command line shows its message without a traceback."""


class RecipeError(TrainerError):
    """The recipe cannot be used."""


class DataError(TrainerError):
    """A table cannot be used."""


class DownloadError(TrainerError):
    """The data of a recipe cannot be downloaded, or differs from what the recipe expects."""


class TextError(TrainerError):
    """A text checkpoint, or an encoder made from one, cannot be used."""


class TrainingError(TrainerError):
    """The training failed, for instance because the loss is not finite."""


class RunError(TrainerError):
    """A run folder cannot be read or written, or an argument of a command cannot be used."""


class ExportError(TrainerError):
    """An exported model or an index cannot be written, or does not pass its checks."""
