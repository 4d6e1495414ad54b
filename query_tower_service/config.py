"""The settings of the query tower service."""

# No postponed annotations: the command line reads the types of the fields at run time, inherited ones too.

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.live_features.location import parse_location
from retrieval.live_features.records import StoreLimits
from retrieval.serving.runtime.config import ServerConfig, check_range


@dataclass(frozen=True, kw_only=True)
class QueryTowerConfig(ServerConfig):
    """The settings of `retrieval.serving.runtime.config.ServerConfig`, of query log, text cache and feature store."""

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

    features: str = ""
    """URL of the feature store, such as redis://HOST:6379/0, rediss://… (TLS) or unix:///PATH. Default: none.

    It needs the extra redis. A query may then name a user, and RecordEvents and ForgetUser work; docs/live_features.md
    says more. The URL must not have a password.
    """

    features_password_file: Path | None = None
    """File with the password of the feature store, read again for each connection. Default: no password."""

    features_prefix: str = "two-tower"
    """Begin of all keys in the feature store, so that several shops can share it: 1 to 100 printable characters."""

    features_timeout_s: float = 0.05
    """Longest time that a call waits for stored features, in seconds, 0.001 to 60; and at most half of its own time."""

    features_write_timeout_s: float = 0.5
    """Longest time of a write to the feature store, in seconds, 0.001 to 60."""

    features_max_events: int = 1000
    """Events that are kept of a user, 1 to 100,000: the newest ones."""

    features_keep_days: float = 90.0
    """Time after the last write of a user after which all that is stored of it is deleted, in days, up to 36,500."""

    served_log: Path | None = None
    """Folder of Parquet files for the training: queries with the features that were used, and events. Default: none.

    It needs the extra served-log, and holds ids of users. Services may share the folder; see docs/live_features.md.
    """

    served_log_max_bytes: int = 10 << 30
    """Size of each table of the served log from which on nothing is written, in bytes, 1 MiB to 1 PiB."""

    def __post_init__(self) -> None:
        """Checks the ranges of the settings.

        Raises:
            ValueError: a setting is out of range; the message names it, its value and what is allowed.
        """
        super().__post_init__()
        check_range("features_timeout_s", self.features_timeout_s, 0.001, 60)
        check_range("features_write_timeout_s", self.features_write_timeout_s, 0.001, 60)
        _ = self.store_limits
        if self.features:
            parse_location(self.features)
        elif self.features_password_file is not None:
            raise ValueError("features_password_file needs features, the URL of the feature store")
        check_range("served_log_max_bytes", self.served_log_max_bytes, 1 << 20, 1 << 50)
        check_range("query_log_share", self.query_log_share, 0, 1)
        check_range("text_cache_size", self.text_cache_size, 0, 10_000_000)
        check_range("query_log_max_bytes", self.query_log_max_bytes, 1 << 10, 1 << 40)

    @property
    def store_limits(self) -> StoreLimits:
        """Limits of what is stored of a user."""
        return StoreLimits(self.features_max_events, self.features_keep_days, self.features_prefix)

    def _own_files(self, number: int) -> dict[str, Any]:
        path = self.query_log
        return {} if path is None else {"query_log": path.with_name(f"{path.stem}-{number}{path.suffix}")}
