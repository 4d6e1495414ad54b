"""The settings of the query tower service."""

# No postponed annotations: the command line reads the types of the fields at run time, inherited ones too.

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.serving.runtime.config import ServerConfig, check_range


@dataclass(frozen=True, kw_only=True)
class QueryTowerConfig(ServerConfig):
    """The settings of `retrieval.serving.runtime.config.ServerConfig`, of the query log and of the text cache."""

    port: int = 50051
    """Port to listen on, 0 to 65535; 0 chooses a free port, which the log and --port-file name."""

    query_log: Path | None = None
    """File in which a sample of the queries is recorded, features only, for `two-tower compare`. Default: none.

    With several workers, each writes its own file: queries.jsonl becomes queries-1.jsonl, queries-2.jsonl and so on.
    """

    query_log_share: float = 0.01
    """Share of the queries that is recorded, 0 to 1."""

    query_log_max_bytes: int = 64 << 20
    """Size at which the query log is rotated, in bytes, 1 KiB to 1 TiB; the previous file is kept, as .1."""

    text_cache_size: int = 10_000
    """Text embeddings that each open model caches, 0 to 10,000,000; 0: no cache. One of 384 values takes 1.6 KiB."""

    def __post_init__(self) -> None:
        """Checks the ranges of the settings.

        Raises:
            ValueError: a setting is out of range; the message names it, its value and what is allowed.
        """
        super().__post_init__()
        check_range("query_log_share", self.query_log_share, 0, 1)
        check_range("text_cache_size", self.text_cache_size, 0, 10_000_000)
        check_range("query_log_max_bytes", self.query_log_max_bytes, 1 << 10, 1 << 40)

    def _own_files(self, number: int) -> dict[str, Any]:
        path = self.query_log
        return {} if path is None else {"query_log": path.with_name(f"{path.stem}-{number}{path.suffix}")}
