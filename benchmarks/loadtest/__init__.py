"""Throughput and latency of both services under ghz, judged by `thresholds.toml`.

- `python -m benchmarks.loadtest`, or `make load-test`: every configuration in `configs/`; writes a table and a page.
"""
