"""Measurements of the latency and CPU time of calls to the services."""
