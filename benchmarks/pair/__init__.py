"""Queries a second and CPU time of both services together, beside Qdrant's engine in process.

- `python -m benchmarks.pair.compare`: both services with each kind of index, and Qdrant, at the same recall.
"""
