"""Catalogues in shards, and clusters that hold them, for tests and measurements."""
