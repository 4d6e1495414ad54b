"""The contract on disk: what a bundle is, how it is stored, and how raw features become model inputs."""
