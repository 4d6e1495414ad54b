"""Learns two towers from interactions, evaluates them, and publishes them as a bundle."""
