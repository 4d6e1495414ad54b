"""Stored features of users: a profile and a bounded history of events, kept in Redis."""
