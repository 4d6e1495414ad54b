"""Builds the ANN service from its parts."""

from __future__ import annotations

import structlog

from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from ann_service.served import Served
from ann_service.served_log.lists import LISTS, RecordedSearches
from ann_service.servicer import SERVICE_NAME, methods
from ann_service.shards import shard_metrics
from ann_service.shards.loader import BundleLoader, Engine
from ann_service.shards.local_shards import LocalEngine
from retrieval.serving.answering.served_log import ServedLog, count_losses
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.server import Server
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.location import open_store

_log = structlog.get_logger("store")


def assemble(config: AnnConfig) -> Server:
    """Returns the server of the ANN service, not started yet.

    Raises:
        StoreError: the URL of the store cannot be used.
        ValueError: the served log, token or TLS files cannot be used, or the Ray cluster cannot be reached.
    """
    store = open_store(config.store, lambda message: _log.info(message))  # the log is configured later
    metrics = Metrics()
    loader = CatalogueLoader(store, config)
    engine = _engine(config, loader)
    bundles = BundleLoader(store, config, loader, engine)
    open_bundles: OpenBundles[Served] = OpenBundles(store, bundles.open, config, metrics)
    metrics.cache_bytes.labels("filters").set_function(
        lambda: sum(opened.bundle.cache_bytes for opened in open_bundles.snapshot.open)
    )
    shard_metrics.export(metrics.registry, open_bundles)
    search, *others = methods(open_bundles, config, metrics)
    served_log = None
    if config.served_log is not None:
        served_log = ServedLog(config.served_log, LISTS, config.served_log_max_bytes, count_losses(metrics.registry))
        search = RecordedSearches(search, served_log)

    def close() -> None:
        engine.close()
        if served_log is not None:
            served_log.close()

    return Server(SERVICE_NAME, [search, *others], open_bundles, metrics, config, on_drained=close)


def _engine(config: AnnConfig, loader: CatalogueLoader) -> Engine:
    if config.engine == "local":
        return LocalEngine(loader)
    # Imported here, because Ray takes seconds to import, and need not be installed.
    from ann_service.shards.ray_engine import RayEngine

    return RayEngine(config)
