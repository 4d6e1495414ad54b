"""Speed and memory of trainings.

- `python -m benchmarks.training.throughput`, or `make throughput`: examples a second from Parquet, beside plain
  `keras.Model.fit` on arrays in memory.
- `python -m benchmarks.training.streaming`: memory and waiting time of a training on a table larger than memory.
"""
