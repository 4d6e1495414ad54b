"""The trainer: trains two towers on interactions, evaluates them, and publishes them as a bundle."""
