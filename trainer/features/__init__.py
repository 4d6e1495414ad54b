"""Feature schemas, learned from training data."""
