"""Promises of live features, against a real Redis and two replicas: writes, kills, rates and latency."""
