"""Searches for better recipes and index parameters."""
