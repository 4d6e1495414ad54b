"""Builds the query tower service from its parts."""

from __future__ import annotations

import structlog

from query_tower_service.config import QueryTowerConfig
from query_tower_service.loader import ModelLoader
from query_tower_service.query_log import QueryLog
from query_tower_service.servicer import SERVICE_NAME, methods
from query_tower_service.text_metrics import TextMetrics
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.server import Server
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.location import open_store

_log = structlog.get_logger("store")


def assemble(config: QueryTowerConfig) -> Server:
    """Returns the server of the query tower service, not started yet.

    Raises:
        StoreError: the URL of the store cannot be used.
        ValueError: the query log, token or TLS files cannot be used.
    """
    store = open_store(config.store, lambda message: _log.info(message))  # the log is configured later
    metrics = Metrics()
    loader = ModelLoader(store, config, TextMetrics(metrics.registry))
    open_bundles = OpenBundles(store, loader.open, config, metrics)
    query_log = None
    if config.query_log is not None:
        query_log = QueryLog(config.query_log, config.query_log_share, config.query_log_max_bytes, metrics.registry)
    return Server(
        SERVICE_NAME,
        methods(open_bundles, config.max_batch_size, metrics, query_log),
        open_bundles,
        metrics,
        config,
        on_drained=query_log.close if query_log is not None else lambda: None,
    )
