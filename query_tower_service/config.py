"""The settings of the query tower service."""

# No postponed annotations: the command line reads the types of the fields, inherited ones too.

from dataclasses import dataclass

from serving.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class QueryTowerConfig(ServerConfig):
    """As of `serving.config.ServerConfig`; only the port differs."""

    port: int = 50051
    """Port to listen on, 0 to 65535; 0 takes a free one, which the log and --port-file name."""
