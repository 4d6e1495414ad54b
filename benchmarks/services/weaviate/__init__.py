"""The ANN service beside Weaviate, a served vector database: throughput, latency and CPU time at the same recall."""
