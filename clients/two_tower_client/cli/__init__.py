"""The command line `two-tower`."""
