"""Code that several programs share: the bundle format, the store, the indexes, inference, and the gRPC runtime."""
