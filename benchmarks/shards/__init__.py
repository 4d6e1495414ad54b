"""Shards on Ray at size: equality, killed nodes, swaps and costs; see `python -m benchmarks.shards`."""
