"""Metrics, baselines and comparisons on held-out events."""
