"""Encoders of a history of events."""
