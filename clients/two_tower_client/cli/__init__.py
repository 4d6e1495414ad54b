"""The `two-tower` command line."""
