"""Parts to run both services as real processes, with traffic and bundle swaps, for tests, benchmarks and examples."""
