"""The settings of the ANN service."""

# No postponed annotations: the command line reads the types of the fields, inherited ones too.

from dataclasses import dataclass
from typing import Literal

from serving.config import ServerConfig, check_range
from serving.cores import own_cores


@dataclass(frozen=True, kw_only=True)
class AnnConfig(ServerConfig):
    """As of `serving.config.ServerConfig`, and what limits a search."""

    port: int = 50052
    """Port to listen on, 0 to 65535; 0 takes a free one, which the log and --port-file name."""

    threads: int | Literal["auto"] = "auto"
    """Threads that answer, 1 to 64. More cost CPU under the GIL: raise --workers instead. auto: 2; 16 where this
    process keeps to one core, as with --workers auto: more cost nothing there, and searches that wait for each other
    are answered by one scan where that takes less time.
    """

    max_k: int = 1000
    """The most items that one search may ask for, 1 to 100,000."""

    max_recall_loss: float = 0.1
    """Gate at load: how far recall@100 on the golden queries may be below that in the manifest, 0 to 1.

    The publisher measured recall on many held-out queries; the golden queries are few, so their recall varies.
    A broken index, or that of another bundle, finds almost none of the nearest items and fails this gate by far.
    """

    filter_cache_mib: int = 64
    """What the matches of filters that were asked for before may take, for each open bundle, in MiB, 0 to 65,536.

    A condition takes a bit an item, and 4 bytes for each item that matches where these are few.
    """

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        check_range("max_k", self.max_k, 1, 100_000)
        check_range("filter_cache_mib", self.filter_cache_mib, 0, 65_536)
        check_range("max_recall_loss", self.max_recall_loss, 0.0, 1.0)

    def _auto_threads(self) -> int:
        return _THREADS_ON_ONE_CORE if own_cores() == 1 else super()._auto_threads()


_THREADS_ON_ONE_CORE = 16
"""On one core more threads cost nothing; so many searches may wait for each other, to be answered together."""
