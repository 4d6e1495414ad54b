"""Starts real services, sends them load, and makes synthetic bundles; for tests, benchmarks and examples."""
