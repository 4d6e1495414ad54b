"""Starts a service: command line, signals, worker processes."""
