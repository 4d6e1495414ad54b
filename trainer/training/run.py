"""A run: what one training leaves in a folder, enough to evaluate and publish it later.

```
<run>/run.json          model version, resolved recipe, data folder, git commit
<run>/schemas.json      both feature schemas and their vocabularies
<run>/query_tower.keras, item_tower.keras
<run>/text_encoders/NAME/   of text features
<run>/history.json      what each epoch measured, see `trainer.training.fit.fit`
<run>/evaluation.json   written by `evaluate`
<run>/checkpoint.npz    to resume from
<run>/tensorboard/
```
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from retrieval.bundle.features.schema import FeatureSchema
from retrieval.bundle.features.text import TextEncoders
from retrieval.bundle.layout import TEXT_ENCODERS
from retrieval.bundle.manifest import new_version
from trainer.errors import RunError
from trainer.evaluation.evaluate import Evaluation
from trainer.features.schemas import Schemas
from trainer.progress import SILENT, Progress
from trainer.recipe import loading, retired_keys
from trainer.recipe.recipe import Recipe
from trainer.training.run_folder import RUN


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        model_version: of the embedding space that it made.
        recipe: resolved.
        data_folder: that the recipe's paths are relative to.
        schemas: what the towers read.
        towers: query tower and item tower.
        git_commit: of the code, empty where unknown.
        refitted: whether the towers were fitted on training and validation, for as many epochs as were best.
        epochs: what each epoch measured.
        before: where refitted, the run as it was before, fitted on training alone; not kept on disk.
    """

    model_version: str
    recipe: Recipe
    data_folder: Path
    schemas: Schemas
    towers: tuple[keras.Model, keras.Model]
    git_commit: str
    refitted: bool
    epochs: list[dict[str, Any]]
    before: Run | None = None

    @staticmethod
    def of(
        recipe: Recipe,
        data_folder: Path,
        schemas: Schemas,
        towers: tuple[keras.Model, keras.Model],
        *,
        refitted: bool = False,
        epochs: list[dict[str, Any]],
    ) -> Run:
        """Returns a run of this moment, with a new model version."""
        return Run(new_version(), recipe, data_folder.resolve(), schemas, towers, _git_commit(), refitted, epochs)

    def save(self, folder: Path) -> None:
        """Writes the run to a folder, which may exist.

        Raises:
            RunError: it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            query_tower, item_tower = self.towers
            query_tower.save(folder / "query_tower.keras")
            item_tower.save(folder / "item_tower.keras")
            for encoder in self.schemas.text_encoders.by_name.values():
                encoder.save(folder / TEXT_ENCODERS)
            _write_json(
                folder / "schemas.json", {s: _schema_to_json(getattr(self.schemas, s)) for s in ("query", "item")}
            )
            _write_json(
                folder / RUN,
                {
                    "model_version": self.model_version,
                    "recipe": self.recipe.to_json(),
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
        """Returns the run in a folder; its text encoders report to `progress`.

        Raises:
            RunError: there is none, it is damaged, or its towers have layers that no longer exist.
        """
        try:
            raw = json.loads((folder / RUN).read_text(encoding="utf-8"))
            if gone := retired_keys.unsupported(raw["recipe"]):
                raise RunError(
                    f"{folder}: its towers were trained with {' and '.join(gone)}, which this trainer no longer has; "
                    "train again without it. Bundles published from the run are still served, and take `add-items`"
                )
            schemas = json.loads((folder / "schemas.json").read_text(encoding="utf-8"))
            return Run(
                raw["model_version"],
                loading.parse_stored(raw["recipe"], str(folder / RUN)),
                Path(raw["data_folder"]),
                _load_schemas(schemas, folder / TEXT_ENCODERS, progress),
                tuple(
                    keras.saving.load_model(folder / f"{t}.keras", compile=False) for t in ("query_tower", "item_tower")
                ),
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
    """Writes ``evaluation.json``."""
    _write_json(folder / "evaluation.json", dataclasses.asdict(evaluation))


def _schema_to_json(schema: FeatureSchema) -> dict[str, Any]:
    return {**schema.to_json(), "vocabularies": {n: list(v.values) for n, v in schema.vocabularies.items()}}


def _load_schemas(raw: dict[str, Any], folder: Path, progress: Progress) -> Schemas:
    """Returns the schemas of both towers, and the text encoders in `folder`, which report to `progress`."""
    query, item = (FeatureSchema.from_json(raw[side], raw[side]["vocabularies"]) for side in ("query", "item"))
    specs = {**query.text_encoder_specs, **item.text_encoder_specs}
    if not specs:
        return Schemas(query, item)
    from trainer.text.encoders import KerasText  # reads checkpoints, which few runs have

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
