"""Client of a two-tower retrieval system: features in, ranked items out.

`Retriever` calls both services with the same model, even while models are swapped. `QueryTowerClient` and `AnnClient`
call one service each. `AsyncRetriever`, `AsyncQueryTowerClient` and `AsyncAnnClient` are their asyncio counterparts.
"""

from two_tower_client import filters
from two_tower_client.ann import AnnClient, AsyncAnnClient
from two_tower_client.async_retriever import AsyncRetriever
from two_tower_client.errors import (
    BundleNotServed,
    DeadlineExceeded,
    InvalidRequest,
    LexicalNotServed,
    ModelNotServed,
    NoBundle,
    NoFeatureStore,
    Overloaded,
    PermissionDenied,
    PopularityNotServed,
    ServerError,
    TwoTowerError,
    Unauthenticated,
    Unavailable,
    UnknownItem,
)
from two_tower_client.events import Event, ForgottenUser, RecordedEvents
from two_tower_client.query_tower import AsyncQueryTowerClient, QueryTowerClient
from two_tower_client.reranking import Boost, Diversify, Facet, RerankingOptions
from two_tower_client.results import Embeddings, FacetCounts, Hit, Retrieval, SearchAnswer, StoredFeatures
from two_tower_client.retrieve_request import Fallback
from two_tower_client.retriever import Retriever
from two_tower_client.rpc.channel import Tls
from two_tower_client.rpc.options import ConnectionOptions
from two_tower_client.search import Ranking, Search, SearchOptions

__all__ = [
    "AnnClient",
    "AsyncAnnClient",
    "AsyncQueryTowerClient",
    "AsyncRetriever",
    "Boost",
    "BundleNotServed",
    "ConnectionOptions",
    "DeadlineExceeded",
    "Diversify",
    "Embeddings",
    "Event",
    "Facet",
    "FacetCounts",
    "Fallback",
    "ForgottenUser",
    "Hit",
    "InvalidRequest",
    "LexicalNotServed",
    "ModelNotServed",
    "NoBundle",
    "NoFeatureStore",
    "Overloaded",
    "PermissionDenied",
    "PopularityNotServed",
    "QueryTowerClient",
    "Ranking",
    "RecordedEvents",
    "RerankingOptions",
    "Retrieval",
    "Retriever",
    "Search",
    "SearchAnswer",
    "SearchOptions",
    "ServerError",
    "StoredFeatures",
    "Tls",
    "TwoTowerError",
    "Unauthenticated",
    "Unavailable",
    "UnknownItem",
    "filters",
]
