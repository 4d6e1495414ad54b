"""The methods of both services over golden bundles, and valid requests to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message

from ann_service import servicer as ann
from ann_service.config import AnnConfig
from ann_service.loader import CatalogueLoader
from query_tower_service import servicer as query_tower
from query_tower_service.config import QueryTowerConfig
from query_tower_service.feature_metrics import FeatureMetrics
from query_tower_service.loader import ModelLoader
from query_tower_service.text_metrics import TextMetrics
from retrieval.bundle.features.schema import Feature
from retrieval.bundle.layout import MANIFEST, POPULARITY
from retrieval.serving.bundles.open_bundles import OpenBundles
from retrieval.serving.runtime.metrics import Metrics
from retrieval.store.folder_store import FolderStore
from tests.golden.golden import copy_golden
from tests.worlds import wait_for
from two_tower.ann.v1 import ann_service_pb2 as ann_pb
from two_tower.query.v1 import query_tower_service_pb2 as query_pb

MAX_BATCH_SIZE, MAX_K, MAX_RESULTS = 8, 24, 100
"""Small limits, so that small inputs reach beyond them."""
_ITEMS = ("0", "1", "7", "i0", "i1", "i7", "item 1", "gone")


class Methods:
    """The methods of both services over two golden bundles, which are both open."""

    def __init__(self, root: Path, names: Sequence[str], stack: ExitStack) -> None:
        for name in names:
            copied = copy_golden(name, root)
            _add_popularity(copied.folder)
            copied.store.promote(copied.version, force=True)
        store = FolderStore(root)
        self.manifests = [store.manifest(version) for version in store.versions()]
        metrics = Metrics()
        query_config = QueryTowerConfig(store=root, max_batch_size=MAX_BATCH_SIZE, poll_interval_s=600)
        ann_config = AnnConfig(
            store=root, max_batch_size=MAX_BATCH_SIZE, max_k=MAX_K, max_results=MAX_RESULTS, poll_interval_s=600
        )
        text_metrics = TextMetrics(metrics.registry)
        models = OpenBundles(store, ModelLoader(store, query_config, text_metrics).open, query_config, metrics)
        catalogues = OpenBundles(store, CatalogueLoader(store, ann_config).open, ann_config, metrics)
        for open_bundles in (models, catalogues):
            open_bundles.start(lambda _: None)
            stack.callback(open_bundles.stop)
            wait_for(lambda bundles=open_bundles: len(bundles.snapshot.open) == 2, f"{names} open")
        self.schemas = [open_bundle.bundle.tower.schema for open_bundle in models.snapshot.open]
        self.item_ids = [catalogues.snapshot.open[0].bundle.items.ids[row] for row in range(3)]
        features = FeatureMetrics(metrics.registry)
        self.embed, *_, self.query_status = query_tower.methods(models, MAX_BATCH_SIZE, metrics, features)
        self.search, self.ann_status = ann.methods(catalogues, ann_config, metrics)

    @property
    def words(self) -> list[str]:
        """Texts that mean something: versions, attributes, features and items."""
        versions = [v for m in self.manifests for v in (m.model_version, m.bundle_version)]
        features = [feature.name for schema in self.schemas for feature in schema.features]
        attributes = [name for manifest in self.manifests for name in manifest.attributes]
        return list(dict.fromkeys([*self.item_ids, *_ITEMS, *versions, *features, *attributes]))

    def queries(self) -> list[Message]:
        """Returns valid requests for embeddings: of one query with all features, and of several, for each model."""
        requests: list[Message] = []
        for manifest, schema in zip(reversed(self.manifests), self.schemas, strict=True):
            query = query_pb.Query()
            for feature in schema.features:
                _fill(query.features[feature.name], feature, self.item_ids)
            for queries in ([query], [query, query_pb.Query(), query]):
                requests.append(query_pb.EmbedQueriesRequest(queries=queries, model_version=manifest.model_version))
        return requests

    def searches(self) -> list[Message]:
        """Returns valid requests for items, for each bundle: by embedding, items, popularity and text, with filters."""
        requests: list[Message] = []
        for manifest in self.manifests:
            embedding = ann_pb.Embedding(values=[0.5, *[0.25] * (manifest.dimension - 1)])
            similar = ann_pb.ItemIds(values=self.item_ids)
            texts = [ann_pb.AttributeValue(string_value=text) for text in ("comedy", "Title 3", *self.item_ids)]
            title = ann_pb.Filter(**{"in": ann_pb.In(attribute="title", values=texts)})
            parts = [title, ann_pb.Filter(**{"not": title})]
            if "year" in manifest.attributes:
                year = ann_pb.AttributeValue(int_value=1960)
                parts += [
                    ann_pb.Filter(range=ann_pb.Range(attribute="year", min=1900, max=2100)),
                    ann_pb.Filter(range=ann_pb.Range(attribute="price", min=-1.5)),
                    ann_pb.Filter(equals=ann_pb.Equals(attribute="year", value=year)),
                ]
            some = ann_pb.Filter(any_of=ann_pb.Filters(filters=parts))
            common: dict[str, Any] = {"k": 5, "return_attributes": list(manifest.attributes)}
            searches = [
                ann_pb.Search(embedding=embedding, **common),
                ann_pb.Search(embedding=embedding, exact=True, min_score=-0.5, filter=some, **common),
                ann_pb.Search(similar_to=similar, exclude_item_ids=self.item_ids, search_budget=100, **common),
                ann_pb.Search(popular=ann_pb.Popular(), filter=some, **common),
                ann_pb.Search(embedding=embedding, **_reranking(title), **common),
                ann_pb.Search(popular=ann_pb.Popular(), filter=some, **_reranking(title), **common),
            ]
            if manifest is self.manifests[-1] and self.has_lexical:
                searches += [
                    ann_pb.Search(text="title 3", ranking=ann_pb.RANKING_LEXICAL, min_score=0.1, **common),
                    ann_pb.Search(text="title", ranking=ann_pb.RANKING_FUSED, embedding=embedding, **common),
                ]
            versions = {"model_version": manifest.model_version, "bundle_version": manifest.bundle_version}
            requests += [ann_pb.SearchItemsRequest(searches=[search], **versions) for search in searches]
            requests.append(ann_pb.SearchItemsRequest(searches=searches, **versions))
        return requests

    @property
    def has_lexical(self) -> bool:
        """Whether the live bundle serves lexical search."""
        return any(name.startswith("lexical/") for name in self.manifests[-1].files)


def _reranking(filter_: ann_pb.Filter) -> dict[str, Any]:
    limit = ann_pb.GroupLimit(attribute="title", max_group_size=1)
    return {
        "candidates_limit": 20,
        "boosts": [ann_pb.Boost(filter=filter_, weight=weight) for weight in (0.5, -0.25)],
        "diversify": ann_pb.Diversify(diversity=0.5, group_limits=[limit]),
        "facets": [ann_pb.Facet(attribute="title", limit=3)],
    }


def _fill(values: query_pb.FeatureValues, feature: Feature, item_ids: Sequence[str]) -> None:
    count = min(feature.max_values, 2)
    if feature.value_type == "string":
        values.strings.values.extend([*item_ids, "comedy"][:count])
    elif feature.value_type == "int":
        values.ints.values.extend([1, 2][:count])
    else:
        values.floats.values.extend([1.7e9, 1.5][:count])


def _add_popularity(folder: Path) -> None:
    """Adds the popularity of the items to a golden bundle, which is older than it."""
    raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    np.save(folder / POPULARITY, np.arange(raw["item_count"], dtype=np.uint32))
    content = (folder / POPULARITY).read_bytes()
    raw["files"][POPULARITY] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(raw), encoding="utf-8")
