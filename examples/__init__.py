"""Demos: programs that train a model, serve it with both services, and retrieve items."""
