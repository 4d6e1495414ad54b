"""What more than one program uses: the bundle, the store, the index, inference, and the gRPC runtime."""
