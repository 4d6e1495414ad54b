"""Learns feature schemas from training data: vocabularies, means and standard deviations."""
