"""Names on disk: the files of a bundle and of a store, and the signatures of the models in a bundle."""

from __future__ import annotations

LIVE = "LIVE"
"""File of a store that names the live bundle."""
LOCK = "LOCK"
"""File of a store that a process locks while it changes the store."""
BUNDLES = "bundles"
"""Folder of a store that has a folder for each bundle, named by its version."""
STAGING_PREFIX = ".staging-"
"""Prefix of the name of a bundle's folder while it is written or removed."""

MANIFEST = "manifest.json"
QUERY_TOWER = "query_tower.tflite"
QUERY_TOWER_SAVED_MODEL = "query_tower"
ITEM_TOWER = "item_tower.keras"
VOCABULARIES = "vocabularies.json"
VECTORS = "vectors.npy"
INDEX = "index.ann"
ITEMS = "items.npz"
POPULARITY = "popularity.npy"
"""Number of training events of each item: [item_count] uint32, in the order of the items. Bundles may lack it."""
GOLDEN_QUERIES = "canaries.json"
EVALUATION = "evaluation.json"
REPORT = "report.html"

TEXT_ENCODERS = "text_encoders"
"""Folder of a bundle that has a folder for each text encoder."""
TOKENIZER = "tokenizer.json"
"""File in the folder of a text encoder."""
TEXT_ENCODER = "encoder.tflite"
"""File in the folder of a text encoder."""

LEXICAL = "lexical"
"""Folder of the lexical index. Only bundles that serve lexical search have one."""
LEXICAL_DESCRIPTION = f"{LEXICAL}/index.json"
"""Path in the bundle of the description of the lexical index."""
BM25_WORDS, BM25_STARTS, BM25_ROWS, BM25_SCORES = "words.npz", "starts.npy", "rows.npy", "scores.npy"
"""Files in the folder of the lexical index."""
LEXICAL_FILES = (
    LEXICAL_DESCRIPTION,
    *(f"{LEXICAL}/{name}" for name in (BM25_WORDS, BM25_STARTS, BM25_ROWS, BM25_SCORES)),
)
"""Paths in the bundle of all files of the lexical index."""

SHARDS = "shards"
"""Folder of a bundle whose catalogue is in shards; it has a folder for each shard."""
CATALOGUE_FILES = (VECTORS, INDEX, ITEMS, POPULARITY, *LEXICAL_FILES)
"""Paths of the files of a catalogue in the bundle; of a bundle in shards, in the folder of each shard."""

SIGNATURE = "serve"
"""Signature of the query tower (LiteRT and SavedModel) and of the text encoders (LiteRT)."""
EMBEDDING = "embedding"
"""Output of the signature: [batch, dim] float32, unit length. The inputs of a query tower are named by feature."""
TOKEN_IDS = "ids"
"""Input of a text encoder: [batch, length] int32, right-padded."""
