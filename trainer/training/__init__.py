"""Trains the towers of a recipe: examples, epochs, checkpoints and runs."""
