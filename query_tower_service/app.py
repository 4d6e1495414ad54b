"""Builds the query tower service from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from query_tower_service.config import QueryTowerConfig
from query_tower_service.feature_metrics import FeatureMetrics
from query_tower_service.loader import ModelLoader
from query_tower_service.query_log import QueryLog
from query_tower_service.served_log.tables import ServedTables
from query_tower_service.servicer import SERVICE_NAME, methods
from query_tower_service.stored_features import StoredFeatures
from query_tower_service.text_metrics import TextMetrics
from retrieval.serving.answering.served_log import count_losses
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.rpc.server import Server
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.location import open_store

if TYPE_CHECKING:
    from retrieval.live_features.feature_store import FeatureStore

_log = structlog.get_logger("store")


def assemble(config: QueryTowerConfig) -> Server:
    """Returns the server of the query tower service, not started yet.

    Raises:
        StoreError: the URL of the store cannot be used.
        ValueError: a log, the token, password or TLS files cannot be used, or an option needs a package that is not
            installed.
    """
    store = open_store(config.store, lambda message: _log.info(message))  # the log is configured later
    metrics = Metrics()
    loader = ModelLoader(store, config, TextMetrics(metrics.registry))
    open_bundles = OpenBundles(store, loader.open, config, metrics)
    features = FeatureMetrics(metrics.registry)
    feature_store = _open_feature_store(config) if config.features else None
    stored = None
    if feature_store is not None:
        stored = StoredFeatures(feature_store, config.features_max_events, features)
    query_log = None
    if config.query_log is not None:
        query_log = QueryLog(config.query_log, config.query_log_share, config.query_log_max_bytes, metrics.registry)
    served = None
    if config.served_log is not None:
        served = ServedTables(config.served_log, config.served_log_max_bytes, count_losses(metrics.registry))

    def close_logs() -> None:
        for log in (query_log, served):
            if log is not None:
                log.close()

    return Server(
        SERVICE_NAME,
        methods(open_bundles, config.max_batch_size, metrics, features, query_log, stored, served),
        open_bundles,
        metrics,
        config,
        on_drained=close_logs,
        on_stopped=feature_store.close if feature_store is not None else None,
    )


def _open_feature_store(config: QueryTowerConfig) -> FeatureStore:
    try:
        from retrieval.live_features.feature_store import FeatureStore, StoreSettings
    except ImportError as error:
        raise ValueError(
            f"features needs redis ({error}); install the extra: pip install 'two-tower-retrieval[redis]'"
        ) from error
    return FeatureStore(
        StoreSettings(
            config.features,
            config.features_password_file,
            config.store_limits,
            config.features_timeout_s,
            config.features_write_timeout_s,
        )
    )
