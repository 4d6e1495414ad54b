"""A run: the result of one training in a folder, which can be evaluated and published later.

```
<run>/run.json          model version, resolved recipe, data folder, git commit
<run>/schemas.json      both feature schemas and their vocabularies
<run>/query_tower.keras, item_tower.keras
<run>/text_encoders/NAME/   text encoders of text features
<run>/history.json      measurements of each epoch, see `trainer.training.fit.fit`
<run>/evaluation.json   metrics of the test part, written by `train` and `evaluate`
<run>/checkpoint.npz    state from which a stopped training is resumed
<run>/tensorboard/      logs for TensorBoard
```
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.text import TextEncoders
from retrieval.bundle.layout import TEXT_ENCODERS
from retrieval.bundle.manifest import new_version
from trainer.errors import RunError
from trainer.evaluation.evaluate import Evaluation
from trainer.features.schemas import Schemas
from trainer.model.saved_towers import load_tower
from trainer.model.trained_model import TrainedModel
from trainer.progress import SILENT, Progress
from trainer.recipe import loading, retired_keys
from trainer.training.run_folder import RUN


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        model_version: Version of the model, which names its embedding space.
        model: Recipe, feature schemas and towers.
        data_folder: Folder that the recipe's paths are relative to.
        git_commit: Git commit of the code; empty if it is unknown.
        refitted: Whether the towers were trained on training and validation together.
        epochs: Measurements of each epoch by name, see `trainer.training.fit.fit`.
        before_refit: Model trained on the training part alone, if it was refitted afterwards, else None; it is not
            saved.
    """

    model_version: str
    model: TrainedModel
    data_folder: Path
    git_commit: str
    refitted: bool
    epochs: list[dict[str, Any]]
    before_refit: TrainedModel | None = None

    @staticmethod
    def of(
        model: TrainedModel,
        data_folder: Path,
        *,
        epochs: list[dict[str, Any]],
        refitted: bool = False,
        before_refit: TrainedModel | None = None,
    ) -> Run:
        """Returns the run of a newly trained model, with a new model version and the current Git commit.

        Args:
            model: Trained model.
            data_folder: Folder that the recipe's paths are relative to.
            epochs: Measurements of each epoch by name.
            refitted: Whether the towers were trained on training and validation together.
            before_refit: Model trained on the training part alone, if it was refitted afterwards.
        """
        return Run(new_version(), model, data_folder.resolve(), _git_commit(), refitted, epochs, before_refit)

    def save(self, folder: Path) -> None:
        """Writes the run to a folder, which may exist.

        Raises:
            RunError: The run cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            query_tower, item_tower = self.model.towers
            query_tower.save(folder / "query_tower.keras")
            item_tower.save(folder / "item_tower.keras")
            for encoder in self.model.schemas.text_encoders.by_name.values():
                encoder.save(folder / TEXT_ENCODERS)
            schemas = self.model.schemas
            both = {"query": _schema_to_json(schemas.query), "item": _schema_to_json(schemas.item)}
            _write_json(folder / "schemas.json", both)
            _write_json(
                folder / RUN,
                {
                    "model_version": self.model_version,
                    "recipe": self.model.recipe.to_json(),
                    "data_folder": str(self.data_folder),
                    "git_commit": self.git_commit,
                    "refitted": self.refitted,
                },
            )
            _write_json(folder / "history.json", self.epochs)
        except OSError as error:
            raise RunError(f"cannot write the run to {folder}: {error}") from error

    @staticmethod
    def load(folder: Path, progress: Progress = SILENT) -> Run:
        """Reads a run from a folder.

        Args:
            folder: Folder of the run.
            progress: Receives the progress of the text encoders when they are used.

        Raises:
            RunError: The folder holds no run, the run is damaged, or its towers have layers that no longer exist.
        """
        try:
            raw = json.loads((folder / RUN).read_text(encoding="utf-8"))
            if gone := retired_keys.unsupported(raw["recipe"]):
                raise RunError(
                    f"{folder}: its towers were trained with {' and '.join(gone)}, which this trainer no longer has; "
                    "train again without it. Bundles published from the run are still served, and take `add-items`"
                )
            schemas = json.loads((folder / "schemas.json").read_text(encoding="utf-8"))
            model = TrainedModel(
                loading.parse_stored(raw["recipe"], str(folder / RUN)),
                _load_schemas(schemas, folder / TEXT_ENCODERS, progress),
                (load_tower(folder / "query_tower.keras"), load_tower(folder / "item_tower.keras")),
            )
            return Run(
                raw["model_version"],
                model,
                Path(raw["data_folder"]),
                raw["git_commit"],
                raw["refitted"],
                json.loads((folder / "history.json").read_text(encoding="utf-8")),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise RunError(
                f"{folder} holds no finished run ({reason}): make one with `python -m trainer train`, or finish "
                "a stopped one with --run and --resume"
            ) from error


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Writes an evaluation to the file ``evaluation.json`` of a run folder."""
    _write_json(folder / "evaluation.json", dataclasses.asdict(evaluation))


def _schema_to_json(schema: FeatureSchema) -> dict[str, Any]:
    return {**schema.to_json(), "vocabularies": {n: list(v.values) for n, v in schema.vocabularies.items()}}


def _load_schemas(raw: dict[str, Any], folder: Path, progress: Progress) -> Schemas:
    """Returns the feature schemas of both towers with their text encoders.

    Args:
        raw: Content of ``schemas.json``.
        folder: Folder of the run, which holds the text encoders.
        progress: Receives the progress of the text encoders when they are used.
    """
    query, item = (FeatureSchema.from_json(raw[side], raw[side]["vocabularies"]) for side in ("query", "item"))
    specs = {**query.text_encoder_specs, **item.text_encoder_specs}
    if not specs:
        return Schemas(query, item)
    from trainer.text.encoders import KerasText  # imported here, as it takes seconds and few runs have text

    return Schemas(query, item, TextEncoders(tuple(KerasText.load(folder, spec, progress) for spec in specs.values())))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _git_commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
