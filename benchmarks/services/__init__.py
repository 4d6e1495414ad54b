"""CPU time and latency of a call to each service, and of the text encoders that the query tower service runs.

- `python -m benchmarks.services.calls`: CPU time of a call, beside an echo and the same work in process.
- `python -m benchmarks.services.tail --store STORE`: latency at half load, workers pinned or not.
- `python -m benchmarks.services.text_encoders`: accuracy, memory and time of text encoders in three runtimes.
"""
