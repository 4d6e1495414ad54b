"""What a bundle is made of on disk: the name of every file in its folder, and of the signatures of its models."""

from __future__ import annotations

MANIFEST = "manifest.json"
QUERY_TOWER = "query_tower.tflite"
QUERY_TOWER_SAVED_MODEL = "query_tower"
ITEM_TOWER = "item_tower.keras"
VOCABULARIES = "vocabularies.json"
VECTORS = "vectors.npy"
INDEX = "index.ann"
ITEMS = "items.npz"
GOLDEN_QUERIES = "canaries.json"
EVALUATION = "evaluation.json"
REPORT = "report.html"

TEXT_ENCODERS = "text_encoders"
"""Folder with a folder for each text encoder, which holds the next two files."""
TOKENIZER = "tokenizer.json"
TEXT_ENCODER = "encoder.tflite"

LEXICAL = "lexical"
"""Folder of the lexical index. Only bundles that serve word search have one."""
LEXICAL_DESCRIPTION = f"{LEXICAL}/index.json"
BM25_WORDS, BM25_STARTS, BM25_ROWS, BM25_SCORES = "words.npz", "starts.npy", "rows.npy", "scores.npy"
"""Files in the folder of the lexical index."""
LEXICAL_FILES = (
    LEXICAL_DESCRIPTION,
    *(f"{LEXICAL}/{name}" for name in (BM25_WORDS, BM25_STARTS, BM25_ROWS, BM25_SCORES)),
)
"""Paths in the bundle of all files of the lexical index."""

SIGNATURE = "serve"
"""Signature of the query tower (LiteRT and SavedModel) and of the text encoders (LiteRT)."""
EMBEDDING = "embedding"
"""Output of the signature: [batch, dim] float32, unit length. The inputs of a query tower are named by feature."""
TOKEN_IDS = "ids"
"""Input of a text encoder: [batch, length] int32, right-padded."""
