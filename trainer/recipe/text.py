"""What a recipe says of a text feature."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.recipe.tables import STRICT, Name


@dataclass(frozen=True, config=STRICT)
class TextInput:
    """A text attribute, made a vector by a Hugging Face checkpoint. Features with the same settings share one encoder.

    Attributes:
        name: of the attribute.
        checkpoint: a name under ``[checkpoints]``, a folder, or a name on the Hugging Face hub. BERT, DistilBERT and
            RoBERTa (and what has their form, such as MiniLM).
        mode: ``frozen``: the checkpoint as it is; each distinct text is embedded once and kept on disk. ``finetune``:
            trained with the towers. ``distilled``: a vector for each token, learned from the checkpoint: answers in
            well under a millisecond.
        max_tokens: of a text that count, with the special ones.
        width: of the vectors of ``distilled``; the checkpoint's own otherwise.
        learning_rate: at the start, of the encoder alone. Default: 2e-5 for ``finetune``; ``distilled`` is not trained
            further.
        token_weights: of ``distilled``, at the start: how much a token counts among others. ``learned`` from the
            checkpoint, or ``idf``: by how few of the texts hold it, as in word search; takes no time to learn.
        trained_layers: of ``finetune``: the topmost ones; as many as there are trains the embeddings too.
        precision: of the served encoder; ``int8`` is smaller and faster, and loses what `evaluation.json` says.
        dropout: share of training rows in which the text is hidden, so that the tower learns to do without.
        description: for those who send it.
    """

    name: Name
    kind: Literal["text"]
    checkpoint: str
    mode: Literal["frozen", "finetune", "distilled"] = "frozen"
    max_tokens: Annotated[int, Field(ge=3, le=512)] = 64
    width: Annotated[int, Field(ge=2, le=1024)] = 256
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    token_weights: Literal["learned", "idf"] = "learned"
    trained_layers: Annotated[int, Field(ge=1)] = 2
    precision: Literal["float32", "int8"] = "float32"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    description: str = ""

    @property
    def rate(self) -> float | None:
        """Learning rate of the encoder; None: it is not trained with the towers."""
        if self.mode == "frozen":
            return None
        return self.learning_rate or (2e-5 if self.mode == "finetune" else None)
