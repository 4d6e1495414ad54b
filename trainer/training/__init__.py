"""Fits the towers of a recipe: examples, epochs, checkpoints, runs."""
