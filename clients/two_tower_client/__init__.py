"""Client of a two-tower retrieval system: features in, ranked items out.

`Retriever` asks both services and keeps them in step while models are replaced; `AsyncRetriever` is its asyncio twin.
The clients of one service, `QueryTowerClient` and `AnnClient`, lie beneath.
"""

from two_tower_client import filters
from two_tower_client.ann import AnnClient, AsyncAnnClient, Ranking, Search, SearchOptions
from two_tower_client.channel import Tls
from two_tower_client.client import ConnectionOptions
from two_tower_client.errors import (
    BundleNotServed,
    DeadlineExceeded,
    InvalidRequest,
    LexicalNotServed,
    ModelNotServed,
    NoBundle,
    Overloaded,
    ServerError,
    TwoTowerError,
    Unauthenticated,
    Unavailable,
    UnknownItem,
)
from two_tower_client.query_tower import AsyncQueryTowerClient, QueryTowerClient
from two_tower_client.results import Embeddings, Hit, Retrieval, SearchAnswer
from two_tower_client.retriever import AsyncRetriever, Retriever

__all__ = [
    "AnnClient",
    "AsyncAnnClient",
    "AsyncQueryTowerClient",
    "AsyncRetriever",
    "BundleNotServed",
    "ConnectionOptions",
    "DeadlineExceeded",
    "Embeddings",
    "Hit",
    "InvalidRequest",
    "LexicalNotServed",
    "ModelNotServed",
    "NoBundle",
    "Overloaded",
    "QueryTowerClient",
    "Ranking",
    "Retrieval",
    "Retriever",
    "Search",
    "SearchAnswer",
    "SearchOptions",
    "ServerError",
    "Tls",
    "TwoTowerError",
    "Unauthenticated",
    "Unavailable",
    "UnknownItem",
    "filters",
]
