"""Interactions of format ``served``: what the services logged, joined to events that a model learns from."""
