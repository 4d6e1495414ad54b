"""Runs the pair for real, as its users do: processes, traffic, swaps. Behind `make demo` and `make soak`."""
