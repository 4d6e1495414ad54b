"""The settings of the ANN service."""

# No postponed annotations: the command line reads the types of the fields at run time, inherited ones too.

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval.serving.runtime.config import ServerConfig, check_range


@dataclass(frozen=True, kw_only=True)
class AnnConfig(ServerConfig):
    """The settings of `retrieval.serving.runtime.config.ServerConfig`, and those of searches."""

    port: int = 50052
    """Port to listen on, 0 to 65535; 0 chooses a free port, which the log and --port-file name."""

    max_batch_size: int = 1000
    """Largest number of searches in one call, 1 to 1,000."""

    max_k: int = 1000
    """Largest number of items that one search may request, 1 to 100,000."""

    max_results: int = 100_000
    """Largest number of items that the searches of one call may request together, 1 to 10,000,000.

    One search alone may always request `max_k` items.
    """

    max_recall_loss: float = 0.1
    """Load gate: how far recall@100 on the golden queries may be below that of the manifest, 0 to 1.

    The publisher measured recall on many held-out queries; the golden queries are few, so their recall varies.
    A broken index, or that of another bundle, finds almost none of the nearest items and fails this gate by far.
    """

    filter_cache_mib: int = 64
    """Memory for the cached matches of earlier filters, for each open bundle, in MiB, 0 to 65,536; 0: no cache.

    One filter takes one bit per item and, if few items match, 4 bytes for each of these.
    """

    engine: Literal["local", "ray"] = "local"
    """Where the shards of a catalogue in shards are: in this process, or actors on the nodes of a Ray cluster.

    Needs the extra ray. Bundles in one piece are always served by this process.
    """

    partial_answers: Literal["refuse", "allow"] = "refuse"
    """What to do while some shards do not answer: refuse with UNAVAILABLE, or allow the answer of the others.

    Each answer says which share of the catalogue it covers.
    """

    shard_timeout_s: float = 2.0
    """Time without a sign of life after which a shard counts as dead, in seconds, 0.5 to 600.

    A shard that is alive may work until 80 % of the time that the caller allows has passed, at most 60 s.
    """

    shard_replicas: int = 1
    """Number of actors that hold each shard with --engine ray, 1 to 16."""

    shard_cpus: float = 1.0
    """Number of CPUs of a node that Ray reserves for each actor, 0 to 1,024; it decides how many a node gets."""

    ray_address: str = "auto"
    """Address of the Ray cluster, such as 10.0.0.1:6379. Default: the cluster that runs on this machine."""

    served_log: Path | None = None
    """Folder of Parquet files for the training: the lists that were returned. Default: none.

    It needs the extra served-log. Services may share the folder; see docs/live_features.md.
    """

    served_log_max_bytes: int = 10 << 30
    """Size of each table of the served log from which on nothing is written, in bytes, 1 MiB to 1 PiB."""

    def __post_init__(self) -> None:
        """Checks the ranges of the settings.

        Raises:
            ValueError: a setting is out of range; the message names it, its value and what is allowed.
        """
        super().__post_init__()
        check_range("served_log_max_bytes", self.served_log_max_bytes, 1 << 20, 1 << 50)
        check_range("max_k", self.max_k, 1, 100_000)
        check_range("max_results", self.max_results, 1, 10_000_000)
        check_range("filter_cache_mib", self.filter_cache_mib, 0, 65_536)
        check_range("max_recall_loss", self.max_recall_loss, 0.0, 1.0)
        check_range("shard_timeout_s", self.shard_timeout_s, 0.5, 600.0)
        check_range("shard_replicas", self.shard_replicas, 1, 16)
        check_range("shard_cpus", self.shard_cpus, 0.0, 1024.0)
        for name, allowed in (("engine", ("local", "ray")), ("partial_answers", ("refuse", "allow"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.engine == "ray" and self.worker_count > 1:
            raise ValueError(
                f"engine ray with {self.worker_count} workers: each would start shards of its own; use one worker, "
                "raise --threads, or run several services with a Ray cluster each"
            )
