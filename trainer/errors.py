"""What the trainer tells the person who runs it.

TrainerError
├── RecipeError       the recipe is wrong; names the key
├── DataError         a table is wrong; names file, column and row
├── DownloadError     data could not be fetched, or is not what the recipe expects
├── TextError         a text checkpoint cannot be used; names it
├── TrainingError     the training went astray
├── RunError          a run folder cannot be read or written
└── ExportError       a tower that was exported answers differently
"""


class TrainerError(Exception):
    """Base of every error of this package; its text is shown without a traceback."""


class RecipeError(TrainerError):
    """The recipe cannot be used."""


class DataError(TrainerError):
    """A table cannot be used."""


class DownloadError(TrainerError):
    """The data of a recipe could not be fetched."""


class TextError(TrainerError):
    """A text checkpoint, or what was made of one, cannot be used."""


class TrainingError(TrainerError):
    """The training led nowhere."""


class RunError(TrainerError):
    """A run folder cannot be read or written."""


class ExportError(TrainerError):
    """An exported tower is not the tower that was trained."""
