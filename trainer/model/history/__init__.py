"""Encoders of the history: the items that a user interacted with before, as one vector."""
