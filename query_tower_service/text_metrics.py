"""Prometheus metrics of text features."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from retrieval.inference.text_encoder import TextObserver


class TextMetrics(TextObserver):
    """Counts cache hits, cache misses and tokens. Safe for several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers the counters."""
        lookups = Counter(
            "two_tower_text_cache_lookups",
            "Texts looked up in the cache of text embeddings: hit, or miss, which is then computed.",
            ["result"],
            registry=registry,
        )
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
        self._tokens = Counter(
            "two_tower_text_tokens", "Tokens that a text encoder computed, with padding.", registry=registry
        )

    def looked_up(self, hits: int, misses: int) -> None:
        """Counts the hits and misses of a lookup in the cache."""
        self._hits.inc(hits)
        self._misses.inc(misses)

    def before_run(self, token_count: int) -> None:
        """Counts the tokens of a run of a text encoder, padding included."""
        self._tokens.inc(token_count)
