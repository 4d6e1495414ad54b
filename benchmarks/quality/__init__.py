"""Measurements of the quality of trained models: recipes against their targets, new items, and search."""
