"""Measurements of both services together, compared with another vector database."""
