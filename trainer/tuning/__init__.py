"""Tuning: the search for a better recipe, and the comparison of kinds and parameters of index."""
