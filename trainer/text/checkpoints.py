"""Finds Hugging Face checkpoints, and reads their tokenizer and weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from retrieval.bundle.features.tokenizer import Tokenizer
from retrieval.bundle.files import sha256_of
from trainer.data import download
from trainer.errors import TextError
from trainer.recipe.tables import Download

_FAMILIES = ("bert", "distilbert", "roberta")
_READ = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        name: Name in the recipe.
        folder: Folder of the files.
        config: Content of ``config.json``.
        digest: SHA-256 of configuration, tokenizer and weights, in hex.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    digest: str

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of a text that the checkpoint can read."""
        positions = int(self.config["max_position_embeddings"])
        # Positions of RoBERTa start after its padding id.
        return positions - self.pad_id - 1 if self.config["model_type"] == "roberta" else positions

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(self.config.get("pad_token_id") or 0)

    @property
    def width(self) -> int:
        """Length of the text vectors of the checkpoint."""
        return int(self.config["dim" if self.config["model_type"] == "distilbert" else "hidden_size"])

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """Returns the tokenizer, as the library transformers builds it.

        Raises:
            TextError: The folder has no fast tokenizer.
        """
        from transformers import AutoTokenizer

        try:
            loaded: Any = AutoTokenizer.from_pretrained(str(self.folder))
            return Tokenizer(loaded.backend_tokenizer.to_str(), max_tokens)
        except (OSError, ValueError, AttributeError) as error:
            raise TextError(
                f"checkpoint {self.name!r}: no fast tokenizer can be read: {error}; the folder needs a tokenizer.json"
            ) from error

    def backbone(self, dtype: str | None = None) -> keras.Model:
        """Returns a new KerasHub backbone with the weights of the checkpoint.

        Raises:
            TextError: The weights cannot be read.
        """
        # The import takes seconds.
        import keras_hub

        try:
            return keras_hub.models.Backbone.from_preset(str(self.folder), **({"dtype": dtype} if dtype else {}))
        except (OSError, ValueError, KeyError) as error:
            raise TextError(
                f"checkpoint {self.name!r}: its weights cannot be read: {error}; the folder needs a whole "
                "model.safetensors"
            ) from error


def find(name: str, downloads: Mapping[str, Download], cache: Path | None = None) -> Checkpoint:
    """Returns a checkpoint by its name: a download of the recipe, a folder, or a model of the Hugging Face hub.

    Args:
        name: Name in the recipe.
        downloads: Downloads under ``[checkpoints]`` of the recipe, by name.
        cache: Folder for downloads. Default: `trainer.data.download.cache_folder`.

    Raises:
        TextError: There is no such checkpoint, or it is of another family.
        DownloadError: It cannot be downloaded.
    """
    if name in downloads:
        folder = download.fetch(downloads[name], cache or download.cache_folder())
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        folder = _from_hub(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = config["model_type"]
    except (OSError, ValueError, KeyError) as error:
        raise TextError(f"checkpoint {name!r}: {folder}/config.json cannot be read: {error}") from error
    if family not in _FAMILIES:
        raise TextError(f"checkpoint {name!r} is of family {family!r}, expected one of {', '.join(_FAMILIES)}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise TextError(f"checkpoint {name!r}: {folder} holds no *.safetensors; save it with transformers 5")
    digest = hashlib.sha256()
    for path in [*(folder / file for file in _READ), *weights]:
        if path.is_file():
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return Checkpoint(name, folder, config, digest.hexdigest())


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[*_READ, "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise TextError(
            f"checkpoint {name!r}: no entry of [checkpoints], no folder, and not to be had from the Hugging Face hub "
            f"({type(error).__name__}); name a folder with config.json, tokenizer.json and model.safetensors"
        ) from error
