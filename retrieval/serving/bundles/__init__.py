"""The open bundles of a service: the policy of swaps, the loading threads, and the load gates."""
