"""Puts the query tower service together."""

from __future__ import annotations

from bundle.store import BundleStore
from query_tower_service.config import QueryTowerConfig
from query_tower_service.loading import ModelLoader
from query_tower_service.query_log import QueryLog
from query_tower_service.servicer import SERVICE_NAME, QueryTowerServicer
from query_tower_service.text_metrics import TextMetrics
from serving.live import Live
from serving.metrics import Metrics
from serving.server import Server


def assemble(config: QueryTowerConfig) -> Server:
    """Returns the server, not started yet.

    Raises:
        ValueError: the query log, token or TLS files cannot be used.
    """
    store = BundleStore(config.store)
    metrics = Metrics()
    live = Live(store, ModelLoader(store, config, TextMetrics(metrics.registry)).open, config, metrics)
    query_log = None
    if config.query_log is not None:
        query_log = QueryLog(config.query_log, config.query_log_share, config.query_log_max_bytes, metrics.registry)
    servicer = QueryTowerServicer(live, config.max_batch_size, metrics, query_log)
    return Server(
        SERVICE_NAME,
        servicer.add_to,
        live,
        metrics,
        config,
        on_drained=query_log.close if query_log is not None else lambda: None,
    )
